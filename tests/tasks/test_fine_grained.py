import io
import math

import pytest
import torch
from PIL import Image
from task_case import loader_of, make_task, write_images, write_json, write_lines

from vilta.data.examples import examples_from
from vilta.scenes import is_true, scene_from_id, word_class
from vilta.tasks.fine_grained import FineGrainedMatching as Task
from vilta.tasks.fine_grained import FineGrainedSettings, Scored, fine_grained_metrics

CAPTION, WRONG, REWORDED = "a red ball", "a blue ball", "the ball is red"


def read(path, **settings):
    return Task.read(str(path), "", FineGrainedSettings(**settings))


def test_sugarcrepe(tmp_path):
    write_images(tmp_path / "val2017", "000000000001.jpg")
    item = {"filename": "000000000001.jpg", "caption": CAPTION, "negative_caption": WRONG}
    for name in ("add_att", "swap_obj"):
        write_json(tmp_path / f"{name}.json", {"0": item, "1": item})
    items = read(tmp_path)
    assert list(items.rows["category"]) == ["add_att", "add_att", "swap_obj", "swap_obj"]
    assert items.rows[0]["texts"] == [CAPTION, WRONG]
    assert items.rows[0]["truth"] == [1, 0]
    assert set(items.rows["set"]) == {"sugarcrepe"}


def test_sugarcrepe_plus_plus(tmp_path):
    write_images(tmp_path, "1.jpg")
    item = {"id": 3, "filename": "1.jpg", "caption": CAPTION, "caption2": REWORDED}
    items = read(write_json(tmp_path / "swap_att.json", [item | {"negative_caption": WRONG}]))
    assert items.rows[0]["texts"] == [CAPTION, WRONG, REWORDED]
    assert items.rows[0]["truth"] == [1, 0, 1]
    assert items.rows[0]["set"] == "sugarcrepe++"


def test_aro_asks_about_a_part_of_the_image(tmp_path):
    picture = Image.new("RGB", (60, 50), "white")
    picture.paste("red", (10, 20, 40, 45))
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "7.png")
    item = {
        "image_path": "7.png",
        "bbox_x": 10,
        "bbox_y": 20,
        "bbox_w": 30,
        "bbox_h": 25,
        "true_caption": CAPTION,
        "false_caption": WRONG,
    }
    content = [item | {"relation_name": "on"}, item | {"attributes": ["red", "blue"]}]
    items = read(write_json(tmp_path / "visual_genome_relation.json", content))
    assert list(items.rows["category"]) == ["on", "red_blue"]
    assert list(items.rows["set"]) == ["aro-relation", "aro-attribution"]
    part = Image.open(io.BytesIO(items.images.read(items.rows[0]["images"][0])))
    assert part.size == (30, 25)
    assert part.getextrema() == ((255, 255), (0, 0), (0, 0))


def test_a_number_sign_in_a_file_name_asks_for_no_part(tmp_path):
    write_images(tmp_path, "dog #1.png", "cat#2.png", "cat.png")
    names = ["dog #1.png", "cat#2.png", "cat#2.png#0,0,3,4"]
    lines = ["image,caption,edit", *(f'"{name}",{CAPTION},{WRONG}' for name in names)]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    images = read(tmp_path / "own.csv").images
    for name in names[:2]:
        assert images.read(name) == (tmp_path / name).read_bytes()
    assert Image.open(io.BytesIO(images.read(names[2]))).size == (3, 4)


def test_aro_order_is_made_from_the_published_captions(tmp_path):
    coco, flickr = "val2014/COCO_val2014_000000391895.jpg", "flickr30k-images/1007129816.jpg"
    write_images(tmp_path, coco, flickr)
    captions = ["A man with a red helmet on a small moped.", "Two dogs play in the green field."]
    write_json(tmp_path / "coco_karpathy_test.json", [{"image": coco, "caption": captions}])
    write_json(tmp_path / "flickr30k_test.json", [{"image": flickr, "caption": ["Dog.", CAPTION]}])
    items = read(tmp_path)
    ids = ["coco_karpathy_test-0-0", "coco_karpathy_test-0-1", "flickr30k_test-0-1"]
    assert list(items.rows["id"]) == ids  # one word has no order
    assert [row["images"] for row in items.rows] == [[coco], [coco], [flickr]]
    for row, caption in zip(items.rows, [*captions, CAPTION], strict=True):
        true, *wrong = row["texts"]
        assert true == caption.lower().strip(".")
        assert row["truth"] == [1] + [0] * len(wrong)
        assert wrong
        assert all(sorted(w.split()) == sorted(true.split()) and w != true for w in wrong)
    task = make_task(Task, items, tmp_path / "model")
    metrics = task.evaluate(task.predict(loader_of(task, items)), items)
    means = metrics["aro-order/coco_karpathy_test"], metrics["aro-order/flickr30k_test"]
    assert metrics["aro-order/macro"] == sum(means) / 2


def test_captions_of_another_name_are_not_taken_for_aro_order(tmp_path):
    write_images(tmp_path, "1.jpg")
    content = [{"image": "1.jpg", "caption": [CAPTION]}]
    with pytest.raises(ValueError, match="known by name") as error:
        read(write_json(tmp_path / "coco_test.json", content))
    assert "\n" not in str(error.value)
    path = write_json(tmp_path / "coco_karpathy_val.json", [{"image": "1.jpg", "caption": CAPTION}])
    with pytest.raises(ValueError, match="is not a list"):
        read(path)


def test_aro_order_as_its_code_holds_it(tmp_path):
    write_images(tmp_path, "1.jpg")
    options = [CAPTION, "ball red a", "red a ball", "ball a red", "a ball red"]
    items = read(write_json(tmp_path / "o.json", [{"image": "1.jpg", "caption_options": options}]))
    assert items.rows[0]["texts"] == options
    assert items.rows[0]["truth"] == [1, 0, 0, 0, 0]
    assert items.rows[0]["set"] == "aro-order"


ARO = {"image_path": "1.jpg", "true_caption": CAPTION, "false_caption": WRONG}
BOX = {"bbox_x": 1, "bbox_y": 1, "bbox_w": 9, "bbox_h": 9}
TWO_IMAGES = {"image_0": "1", "image_1": "1"}
CREPE = {"filename": "1.jpg", "caption": CAPTION, "negative_caption": WRONG}


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("visual_genome_relation", ARO | BOX | {"relation_name": "on"}),
        ("visual_genome_attribution", ARO | {"attributes": ["red", "blue"]}),
        ("options", {"image": "1.jpg", "caption_options": [CAPTION, WRONG]}),
        ("flickr30k_val", {"image": "1.jpg", "caption": [CAPTION]}),
        ("winoground", TWO_IMAGES | {"caption_0": CAPTION, "caption_1": WRONG}),
        ("existence", {"image_file": "1.jpg", "caption": CAPTION, "foil": WRONG}),
        ("add_obj", CREPE),
        ("swap_obj", CREPE | {"caption2": REWORDED}),
    ],
)
def test_a_missing_field_is_named(tmp_path, name, item):
    write_images(tmp_path, "1.jpg")
    path = tmp_path / f"{name}.json"
    assert len(read(write_json(path, [item, item])).rows) == 2
    for field in set(item) - {"bbox_x"}:  # without it, the whole image
        rest = {key: value for key, value in item.items() if key != field}
        wanted = "attributes" if field == "relation_name" else field
        for content in ([item, rest], [rest, item]):
            with pytest.raises(ValueError, match=f"no field '{wanted}'") as error:
                read(write_json(path, content))
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)


def test_what_is_no_text_is_refused(tmp_path):
    item = {"image_file": "1.jpg", "caption": [], "foil": WRONG}
    with pytest.raises(ValueError, match=r"existence.json: 'caption' .* must be a text"):
        read(write_json(tmp_path / "existence.json", [item]))
    with pytest.raises(ValueError, match="holds no items"):
        read(write_json(tmp_path / "existence.json", [item, "a"]))


def test_winoground(tmp_path):
    write_images(tmp_path / "images", "ex_0_img_0.png", "ex_0_img_1.png")
    item = {
        "id": 0,
        "image_0": "ex_0_img_0",
        "image_1": "ex_0_img_1",
        "caption_0": CAPTION,
        "caption_1": WRONG,
        "tag": "Adjective",
        "secondary_tag": "",
        "num_main_preds": 1,
        "collapsed_tag": "Object",
    }
    items = read(write_lines(tmp_path / "examples.jsonl", [item, item | {"id": 1}]))
    assert items.rows[0]["images"] == ["ex_0_img_0", "ex_0_img_1"]
    task = make_task(Task, items, tmp_path / "model")
    metrics = task.evaluate(task.predict(loader_of(task, items)), items)
    assert {"winoground/text", "winoground/image", "winoground/group"} <= metrics.keys()


def test_valse_keeps_what_annotators_agreed_on(tmp_path):
    write_images(tmp_path, "v7w_1.jpg")
    item = {
        "dataset": "visual7w",
        "original_split": "test",
        "dataset_idx": "1",
        "linguistic_phenomena": "existence",
        "image_file": "v7w_1.jpg",
        "caption": CAPTION,
        "foil": WRONG,
        "classes": "red",
        "classes_foil": "blue",
        "mturk": {"foil": 0, "caption": 3, "other": 0},
    }
    doubted = item | {"mturk": {"foil": 1, "caption": 1, "other": 1}}
    listed = item | {"caption": [CAPTION], "foil": [WRONG]}
    path = write_json(tmp_path / "existence.json", {"a": item, "b": doubted, "c": listed})
    items = read(path)
    assert list(items.rows["id"]) == ["existence-a", "existence-c"]
    assert items.rows[1]["texts"] == [CAPTION, WRONG]
    task = make_task(Task, items, tmp_path / "model")
    metrics = task.evaluate(task.predict(loader_of(task, items)), items)
    parts = ("acc_r", "acc", "p_c", "p_f", "min(p_c,p_f)")
    wanted = {f"valse/{piece}{part}" for piece in ("", "existence/") for part in parts}
    keys = {key for key in metrics if key.startswith("valse/")}
    assert keys == wanted | {"valse/macro", "valse/existence"}


def test_valse_by_piece():
    items = [
        scored([1, 0], [2.0, -1.0]),
        scored([1, 0], [1.0, 3.0]),
        scored([1, 0], [-1.0, -2.0]),
        scored([1, 0], [31.0, 30.0]),  # both all but certain, yet in order
    ]
    metrics = fine_grained_metrics(items, ["valse"] * 4, ["existence"] * 2 + ["plurals"] * 2)
    found = {
        piece: [metrics[f"valse/{piece}{p}"] for p in ("acc_r", "acc", "p_c", "p_f")]
        for piece in ("", "existence/", "plurals/")
    }
    assert found == {
        "": [75.0, 62.5, 75.0, 50.0],
        "existence/": [50.0, 75.0, 100.0, 50.0],
        "plurals/": [100.0, 50.0, 50.0, 50.0],
    }
    assert metrics["valse/existence/min(p_c,p_f)"] == 50.0
    assert metrics["valse/macro"] == 75.0


def test_a_csv_of_ones_own_and_unknown_files(tmp_path):
    write_images(tmp_path, "1.jpg")
    path = tmp_path / "mine.csv"
    path.write_text(f"image,caption,edit,paraphrase\n1.jpg,{CAPTION},{WRONG},{REWORDED}\n")
    assert read(path).rows[0]["truth"] == [1, 0, 1]
    path.write_text("image,caption\n1.jpg,a\n")
    with pytest.raises(ValueError, match="no column 'edit'"):
        read(path)
    with pytest.raises(ValueError, match="not a supported set of captions"):
        read(write_json(tmp_path / "other.json", [{"question": "?"}]))
    with pytest.raises(ValueError, match="holds no items"):
        read(write_json(tmp_path / "empty.json", []))


def test_a_csv_of_ones_own_is_no_published_set_whatever_it_is_called(tmp_path):
    write_images(tmp_path, "1.jpg")
    for stem, name in (("winoground", "csv-winoground"), ("valse", "csv-valse"), ("mine", "mine")):
        path = tmp_path / f"{stem}.csv"
        path.write_text(f"image,caption,edit,paraphrase\n1.jpg,{CAPTION},{WRONG},{REWORDED}\n")
        rows = read(path).rows
        metrics = fine_grained_metrics(
            [scored([1, 0, 1], [2.0, -1.0, 0.5])], list(rows["set"]), list(rows["category"])
        )
        assert {n for n in metrics if stem in n} == {f"{name}/macro", f"{name}/all"}


def test_the_oracle_agrees_with_the_scenes_items():
    items = read("scenes:30?seed=8&size=32")
    wanted = {"colour", "shape", "size", "texture", "relation", "count"}
    assert set(items.rows["category"]) <= wanted
    for row in items.rows:
        scene = scene_from_id(row["images"][0])
        for text, truth in zip(row["texts"], row["truth"], strict=True):
            assert is_true(scene, text) == bool(truth)


def test_more_wrong_texts_in_training_alone(tmp_path):
    plain = read("scenes:30?seed=8&size=32")
    settings = FineGrainedSettings(edit_kinds=("size", "relation"))
    more = Task.read("scenes:30?seed=8&size=32", "", settings)
    added = 0
    for row in more.rows:
        scene, (caption, _, *others) = scene_from_id(row["images"][0]), row["texts"]
        assert row["truth"] == [int(is_true(scene, text)) for text in row["texts"]]
        for text, true in zip(others, row["truth"][2:], strict=True):
            if not true:
                (word,) = [a for a, b in zip(caption.split(), text.split(), strict=True) if a != b]
                assert word_class(word.strip(",.:")) in ("size", "relation")
                added += 1
    assert added > len(more.rows) / 2
    assert Task.read("scenes:30?seed=8&size=32", "", settings.held_out()).rows[:] == plain.rows[:]


def test_sets_with_other_numbers_of_texts_go_together(tmp_path):
    write_images(tmp_path, "1.jpg")
    options = [CAPTION, "ball red a", "red a ball", "ball a red"]
    many = read(write_json(tmp_path / "o.json", [{"image": "1.jpg", "caption_options": options}]))
    (tmp_path / "mine.csv").write_text(f"image,caption,edit\n1.jpg,{CAPTION},{WRONG}\n")
    few = read(tmp_path / "mine.csv")
    task = make_task(Task, many, tmp_path / "model")
    task.check(few)
    for items in (many, few):
        (batch,) = loader_of(task, items)
        assert (batch.targets >= 0).sum() == len(items.rows[0]["texts"])
        assert task(batch).total.isfinite()


def test_the_loss_by_hand(tmp_path):
    write_images(tmp_path, "1.jpg", "2.jpg")
    lines = ["image,caption,edit,paraphrase", f"1.jpg,{CAPTION},{WRONG},{REWORDED}"]
    lines.append(f"2.jpg,{WRONG},{CAPTION},")
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    items = read(tmp_path / "mine.csv")
    task = make_task(Task, items, tmp_path / "model", paraphrases=0.5)
    (batch,) = loader_of(task, items)
    scores = []
    for text, owner in enumerate(batch.text_to_item.tolist()):
        out = task.model(
            batch.input_ids[text : text + 1],
            batch.attention_mask[text : text + 1],
            batch.pixel_values[batch.image_index[owner]],
        )
        scores.append((out.match_logits[0, 1] - out.match_logits[0, 0]).item())
    yes, no = ([math.log1p(math.exp(s * x)) for x in scores] for s in (-1, 1))
    captions, edits = (yes[0] + yes[3]) / 2, (no[1] + no[4]) / 2
    ranking = sum(math.log1p(math.exp(scores[i + 1] - scores[i])) for i in (0, 3)) / 2
    expected = (captions + 0.5 * yes[2]) / 1.5 + edits + ranking
    assert task(batch).total.item() == pytest.approx(expected, rel=1e-4)
    assert task(batch).metrics["paraphrases"].item() == pytest.approx(yes[2], rel=1e-4)


def scored(truth, *match, similarity=None):
    return Scored(truth, [list(m) for m in match], similarity or list(match[0]))


def test_figures_by_hand():
    items = [
        scored([1, 0, 1], [2.0, -1.0, -0.5]),  # edit beaten, paraphrase rejected
        scored([1, 0, 1], [1.0, 1.0, 3.0]),  # a tie counts as wrong
        scored([1, 0], [-3.0, -4.0], similarity=[0.0, 1.0]),  # beaten, though not accepted
        scored([1, 0, 1], [0.5, 0.2, 0.1]),
    ]
    metrics = fine_grained_metrics(items, ["sugarcrepe++"] * 4, ["a", "a", "b", "b"])
    assert metrics["accuracy"] == 75.0
    assert metrics["contrast/accuracy"] == 50.0
    assert metrics["captions_accepted"] == 75.0
    assert metrics["edits_rejected"] == 50.0
    assert metrics["paraphrases_accepted"] == pytest.approx(200 / 3)
    assert metrics["both_sides"] == pytest.approx((75 + 200 / 3) / 2)
    assert metrics["sugarcrepe++/a"] == 50.0
    assert metrics["sugarcrepe++/macro"] == 75.0
    assert metrics["sugarcrepe++/both_captions"] == 50.0  # the first and the third


def test_an_untrained_head_is_not_asked(tmp_path):
    items = read("scenes:2?seed=8&size=32")
    task = make_task(Task, items, tmp_path / "model")
    found = {}
    for ranking in ("combined", "matching", "contrastive"):
        task.model.config.ranking = ranking
        found[ranking] = task.evaluate(task.predict(loader_of(task, items)), items).keys()
    assert found["contrastive"] == {"contrast/accuracy"}
    assert found["matching"] == found["combined"] - found["contrastive"]
    assert {"both_sides", "scenes/macro"} < found["matching"]


def test_without_paraphrases_there_is_one_side_and_it_is_said(tmp_path):
    write_images(tmp_path, "1.jpg")
    path = tmp_path / "mine.csv"
    path.write_text(f"image,caption,edit\n1.jpg,{CAPTION},{WRONG}\n")
    one_side = read(path)
    metrics = fine_grained_metrics([scored([1, 0], [2.0, -1.0])], ["own"], ["a"])
    assert not {"both_sides", "paraphrases_accepted"} & metrics.keys()
    assert Task.selection_metric_for(one_side) == "accuracy" and "only one side" in Task.remark(
        one_side
    )
    path.write_text(f"image,caption,edit,paraphrase\n1.jpg,{CAPTION},{WRONG},{CAPTION} it\n")
    both = read(path)
    assert Task.selection_metric_for(both) == "both_sides" and Task.remark(both) == ""


def test_items_with_other_numbers_of_images_are_refused(tmp_path):
    write_images(tmp_path, "1.jpg")
    (tmp_path / "mine.csv").write_text(f"image,caption,edit\n1.jpg,{CAPTION},{WRONG}\n")
    items = read(tmp_path / "mine.csv")
    task = make_task(Task, items, tmp_path / "model")
    pair = {**items.rows[0], "images": ["1.jpg", "1.jpg"], "set": "winoground"}
    mixed = examples_from([items.rows[0], pair], items.images, "mixed")
    with pytest.raises(ValueError, match="winoground has more images an item than"):
        task.check(mixed)


def test_winoground_needs_both_images():
    both = scored([1, 0], [2.0, 1.0], [1.0, 2.0])
    texts = scored([1, 0], [5.0, 4.0], [6.0, 7.0])  # the second image wins both captions
    metrics = fine_grained_metrics([both, texts], ["winoground"] * 2, ["x"] * 2)
    assert metrics["winoground/text"] == 100.0
    assert metrics["winoground/image"] == metrics["winoground/group"] == 50.0


def test_aro_attribution_leaves_small_categories_out_of_its_mean():
    right, wrong = scored([1, 0], [1.0, 0.0]), scored([1, 0], [0.0, 1.0])
    many = [right] * 20 + [wrong] * 5
    names = ["old_red"] * 25 + ["new_blue"]
    metrics = fine_grained_metrics([*many, wrong], ["aro-attribution"] * 26, names)
    assert metrics["aro-attribution/macro"] == metrics["aro-attribution/old_red"] == 80.0
    assert "aro-attribution/new_blue" not in metrics


def test_aro_sets_do_not_mix_and_symmetric_relations_do_not_count():
    right, wrong = scored([1, 0], [1.0, 0.0]), scored([1, 0], [0.0, 1.0])
    relation = [("on", right), ("on", wrong), ("under", wrong), ("next to", right)]
    attribution = [("old_red", right)] * 25
    order = [("flickr30k_test", wrong), ("coco_karpathy_test", right), ("flickr30k_test", wrong)]
    sets = ["aro-relation"] * 4 + ["aro-attribution"] * 25 + ["aro-order"] * 3
    categories, items = zip(*relation, *attribution, *order, strict=True)
    metrics = fine_grained_metrics(list(items), sets, list(categories))
    assert {key: value for key, value in metrics.items() if key.startswith("aro")} == {
        "aro-relation/macro": 25.0,  # of on and under; nothing needs 25 items here
        "aro-relation/on": 50.0,
        "aro-relation/under": 0.0,
        "aro-relation/next to": 100.0,
        "aro-attribution/macro": 100.0,
        "aro-attribution/old_red": 100.0,
        "aro-order/macro": 50.0,
        "aro-order/flickr30k_test": 0.0,
        "aro-order/coco_karpathy_test": 100.0,
    }


def test_only_symmetric_relations_have_no_mean():
    metrics = fine_grained_metrics([scored([1, 0], [1.0, 0.0])], ["aro-relation"], ["near"])
    assert not any(key.startswith("aro") for key in metrics)
    assert metrics["accuracy"] == 100.0


def test_one_image_scores_do_not_depend_on_the_batch(tmp_path):
    items = read("scenes:5?seed=8&size=32")
    task = make_task(Task, items, tmp_path / "model")
    first, second = (task.predict(loader_of(task, items, size)) for size in (1, 4))
    for a, b in zip(first, second, strict=True):
        assert a.truth == b.truth
        assert torch.allclose(torch.tensor(a.match), torch.tensor(b.match), atol=1e-4)
