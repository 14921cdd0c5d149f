"""The methods by name. The table is text, so that listing it imports no method."""

from mixbench.registry import Registry

METHODS = Registry(
    "method",
    {
        "alignmix": "mixbench.methods.alignmix:AlignMix",
        "automix": "mixbench.methods.automix:AutoMix",
        "bc": "mixbench.methods.bc:BC",
        "choice": "mixbench.methods.choice:Choice",
        "cutmix": "mixbench.methods.cutmix:CutMix",
        "erm": "mixbench.methods.erm:ERM",
        "manifoldmixup": "mixbench.methods.manifoldmixup:ManifoldMixup",
        "mixup": "mixbench.methods.mixup:Mixup",
        "mixup2": "mixbench.methods.mixup2:Mixup2",
        "moco": "mixbench.methods.moco:MoCo",
        "mocosamix": "mixbench.methods.mocosamix:MoCoSAMix",
        "samix": "mixbench.methods.samix:SAMix",
        "tdattenmix": "mixbench.methods.tdattenmix:TdAttenMix",
        "tlalign": "mixbench.methods.tlalign:TLAlign",
        "transmix": "mixbench.methods.transmix:TransMix",
    },
    group="mixbench.methods",
    needs=("Config", "mix"),
)
register = METHODS.register
list_methods = METHODS.names

# The methods of the default benchmark, as far as they are registered.
CORE = ("mixup", "cutmix", "manifoldmixup", "bc", "alignmix", "samix", "tdattenmix")
