"""Networks: what they are as values, what can be observed in them, where their weights come from, and what they cost.

    Architecture ── build() ──► Network(inputs, taps) ──► {tap: tensor}      architecture.py  network.py  preprocess.py
         │                         ▲
         │                         └── weights.load_into(network, path)      weights.py  fit.py
         ├── taps(), tap_shape(tap), check_tap(tap), classifier              asked of a blueprint, without weights
         ├── size(architecture) ──► parameters, flops                        sizing.py
         ├── scaled(architecture, parameters), geometric(teacher, student, links)              scaling.py
         └── shallower(architecture), parts(small, large)                    pruning.py

    MLP  CNN                     small                      mlp.py  cnn.py
    ResNet  WideResNet  VGG      for images of 32x32        resnet.py  wrn.py  vgg.py
    MobileNetV2  ShuffleNetV2    light ones                 mobilenet.py  shufflenet.py
    GPT  BERT                    for tokens                 transformer.py
    TorchVision  Custom          written by others          foreign.py
    HuggingFace                  language models of transformers, from a folder and back    huggingface.py
    Cohort                       several as one             cohort.py
    Reusing                      a student with its teacher's classifier     reusing.py

A new architecture is one file: a frozen dataclass with `body`, `stages` and `__str__`, and a line in the list of its laws.
"""

from raykd.models import weights
from raykd.models.architecture import Architecture
from raykd.models.cnn import CNN
from raykd.models.cohort import Cohort
from raykd.models.foreign import Custom, TorchVision
from raykd.models.huggingface import HuggingFace
from raykd.models.mlp import MLP
from raykd.models.mobilenet import MobileNetV2
from raykd.models.network import Network
from raykd.models.preprocess import IMAGENET, Preprocess
from raykd.models.resnet import ResNet
from raykd.models.reusing import Reusing
from raykd.models.scaling import geometric, scaled
from raykd.models.shufflenet import ShuffleNetV2
from raykd.models.sizing import Size, size
from raykd.models.transformer import BERT, GPT
from raykd.models.vgg import VGG
from raykd.models.wrn import WideResNet

__all__ = [
    "BERT",
    "CNN",
    "GPT",
    "IMAGENET",
    "MLP",
    "VGG",
    "Architecture",
    "Cohort",
    "Custom",
    "HuggingFace",
    "MobileNetV2",
    "Network",
    "Preprocess",
    "ResNet",
    "Reusing",
    "ShuffleNetV2",
    "Size",
    "TorchVision",
    "WideResNet",
    "geometric",
    "scaled",
    "size",
    "weights",
]
