"""The YAML files of the library that a project's `configs/` builds on: `hydra.searchpath: [pkg://cairn.hydra.configs]`.

A file of the same name in the project's `configs/` takes the place of a file here.
"""
