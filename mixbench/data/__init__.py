"""The data sets by name; each is a :class:`mixbench.data.images.DataSource`."""

from mixbench.registry import Registry

DATA = Registry(
    "data set",
    {
        "digits": "mixbench.data.digits:Digits",
        "folder": "mixbench.data.folder:Folder",
        "pack": "mixbench.data.pack:Pack",
    },
    group="mixbench.data",
)
