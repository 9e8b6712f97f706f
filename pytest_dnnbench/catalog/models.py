"""The built-in models: the "module:factory" behind each name. No factory is imported here.

Not here: how a name is looked up (lookup.py), and how a model becomes a workload
(rank/workloads/image_models.py)."""

_OF_ANY_SIZE = """
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m
    efficientnet_v2_s googlenet mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
    mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
    regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf
    regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf
    resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t
    wide_resnet101_2 wide_resnet50_2
"""
"""torchvision's classifiers that take MNIST's images and all larger ones."""

_OF_LARGE_IMAGES = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
    densenet169 densenet201 inception_v3 maxvit_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn
    vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32
"""
"""Those that take images of 224 pixels, and of 28 not."""

OF_ANY_SIZE = frozenset(f"torchvision.models:{name}" for name in _OF_ANY_SIZE.split())
OF_LARGE_IMAGES = frozenset(f"torchvision.models:{name}" for name in _OF_LARGE_IMAGES.split())

IMAGE_CLASSIFIERS = OF_ANY_SIZE | OF_LARGE_IMAGES
"""The suite's models of images, by "module:factory"."""

TORCHVISION_MODELS = {path.partition(":")[2]: path for path in sorted(IMAGE_CLASSIFIERS)}
"""torchvision's classifiers, by the names of their factories."""

_OF_RANK = {
    "gpt-nano": "gpt:nano",
    "gpt-tiny": "gpt:tiny",
    "gpt-mini": "gpt:mini",
    "gpt2-124m": "gpt:gpt2_124m",
    "gpt2-355m": "gpt:gpt2_355m",
    "gpt2-774m": "gpt:gpt2_774m",
    "gpt2-1558m": "gpt:gpt2_1558m",
    "llama-tiny": "llama:tiny",
    "llama-mini": "llama:mini",
    "llama2-7b": "llama:llama2_7b",
    "llama3-1b": "llama:llama3_1b",
    "llama3-8b": "llama:llama3_8b",
    "mlp": "mlp:small",
    "mlp-wide": "mlp:wide",
}

OWN_MODELS = {name: f"pytest_dnnbench.rank.workloads.{path}" for name, path in _OF_RANK.items()}
"""Our own: models of tokens, and plain layers. Each is a workload."""

TOKEN_MODELS = frozenset(
    OWN_MODELS[name] for name, path in _OF_RANK.items() if path.startswith(("gpt:", "llama:"))
)
"""The suite's models of tokens, by "module:factory"."""

SHARED_BY_RANKS = {
    OWN_MODELS[name]: parts
    for name, parts in {
        "gpt-nano": (3, "heads"),
        "gpt-tiny": (4, "heads"),
        "gpt-mini": (6, "heads"),
        "gpt2-124m": (12, "heads"),
        "gpt2-355m": (16, "heads"),
        "gpt2-774m": (20, "heads"),
        "gpt2-1558m": (25, "heads"),
        "llama-tiny": (2, "heads of keys"),
        "llama-mini": (4, "heads of keys"),
        "llama2-7b": (32, "heads of keys"),
        "llama3-1b": (8, "heads of keys"),
        "llama3-8b": (8, "heads of keys"),
        "mlp": (256, "features"),
        "mlp-wide": (4096, "features"),
    }.items()
}
"""Of our own models, by "module:factory", what tensor parallelism shares out evenly among ranks:
how many, and of what."""

DEFAULT_MODELS = ("resnet18", "resnet50", "resnext50_32x4d", "efficientnet_b0")
