"""All CRDs as one file, for `kubectl apply` without Helm. Pure."""

from collections.abc import Mapping

from patio_release.version import Version


def joined(files: Mapping[str, str], version: Version) -> str:
    """Return the CRDs one after the other, in the order of their files' names."""
    head = (
        f"# The CRDs of Patio {version.text}.\n"
        "#     kubectl apply --server-side --force-conflicts -f FILE\n"
        "# Beside upstream's controller of RoleBasedGroups, apply loraadapters.patio.dev alone.\n"
    )
    documents = [files[name].removeprefix("---\n").rstrip("\n") + "\n" for name in sorted(files)]
    return head + "".join(f"---\n{document}" for document in documents)
