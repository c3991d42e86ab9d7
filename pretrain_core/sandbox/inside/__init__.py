"""What runs on the other side of the sandbox's wall: the standard library only, no imports of ours.

The launcher starts these modules as the package `inside`, hence the relative imports.
"""
