"""Config files, shipped with the package: train/ search/ serve/ reproduce/."""
