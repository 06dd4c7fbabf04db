"""`vilta` with EfficientNet-Lite registered: ``python -m benchmarks.flickr8k pretrain ...``."""

from benchmarks.flickr8k.encoders import register

if __name__ == "__main__":
    register()
    from vilta.cli import main

    main()
