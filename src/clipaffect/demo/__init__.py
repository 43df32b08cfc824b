"""The demo data set: rendered heads whose action units are known exactly.

``rig`` holds the mesh, ``person`` draws who somebody is, ``script`` what they do,
``render`` makes one picture of it and ``generate`` writes the tree that lies on disk
as Aff-Wild2 does.
"""
