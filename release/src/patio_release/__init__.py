"""How a release of Patio is made.

`version` knows where the version stands, `published` what is published under which name, and `plan` what must hold and
in which order it goes out. `changelog`, `chart`, `crds`, `checksums`, `oci_layout` and `sbom` make the files. All of
these are pure. `programs` and `images` call what builds, pushes and signs, and `publisher` does the plan's steps.
Nothing of this package is in an image or a wheel that is published.
"""
