"""The methods that a race tries unless it is told which, and why.

Many methods that are tried once beat a few that are tried often, unless one is known to help; but
each must be able to be trained as it stands, without another run before it, and at about the cost
of plain training. Those that the network or the data do not suit are left out of a race by their
own requirements.
"""

# Why each is raced, plain training first, then in the order in which most people would try them.
RACED = {
    "erm": "plain training, which the winner has to beat",
    "mixup": "the oldest mixture of images, at no cost",
    "cutmix": "the pasted box that most recipes use, at no cost",
    "manifoldmixup": "a mixture of features in place of pixels",
    "bc": "a mixture that knows the energy of the images, strong with little data",
    "splicemix": "grids of whole images, where no object may be cut, or with several labels",
    "fmix": "masks of irregular form, from the low frequencies of noise",
    "resizemix": "the whole partner in a small box, so that no object is cut",
    "saliencymix": "the pasted box where the partner shows most",
    "guidedmixup": "each pixel by the saliency of both images, at no cost",
    "alignmix": "features that are aligned before they are mixed",
    "transmix": "CutMix labelled by attention, for transformers",
    "tlalign": "CutMix labelled by aligned tokens, for transformers",
    "tdattenmix": "boxes chosen by attention, for transformers",
}

# Why the other methods are not; method=all and method=a,b race them all the same, except those of
# another task than plain training's.
NOT_RACED = {
    "augmix": "three views of each image cost as much as three methods",
    "attentivemix": "keeps the cells that another network attends to, which costs a pass of it",
    "automix": "masks that are learned along the way double the cost",
    "puzzlemix": "a gradient of the images and a cut for each batch cost most of another method",
    "samix": "masks that are learned along the way by a larger mixer cost the most",
    "snapmix": "a second pass for labels by meaning, which its authors show on fine classes",
    "smmix": "tdattenmix without a file is nearly the same, and labels by attention, too",
    "mixpro": "half of it is mixup and CutMix, and transmix labels by attention, too",
    "tokenmix": "its labels want the maps of a trained teacher, which a race does not have",
    "gridmix": "a pasted grid, which no published code of its authors confirms",
    "smoothmix": "a box without edges, which no published code of its authors confirms",
    "denoisegan": "learns components of sums, and names no class",
    "demixgan": "learns components of sums, and names no class",
    "choice": "a mixture of methods, whose members a race tries one by one",
    "hmix": "another method's mixture with labels of human viewers, to be chosen for that reason",
    "mixup2": "a control that doubles the cost of mixup",
    "moco": "learns without labels, and plain training does not",
    "mocosamix": "learns without labels, and plain training does not",
    "splicemix_cl": "splicemix with a second loss, which race method=splicemix,splicemix_cl tells",
    "transformmix_recon": "needs a module that another run has searched before",
    "transformmix_search": "searches a module for another run, and is no method to train with",
}
