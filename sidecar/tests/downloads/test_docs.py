"""docs/concepts/downloads.md against the program: statuses, keys of `config`, kinds of files."""

from __future__ import annotations

from pathlib import Path

from patio.routes.downloads import DOWNLOAD_STATUS
from patio_protocol.downloads import DEFAULT_DOWNLOAD_ROOT, DownloadRequest, DownloadState
from patio_protocol.sources import OPTION_KEYS, SECRET_KEYS, SourceKind

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "concepts/downloads.md").read_text()


def test_every_status_of_a_download_is_explained() -> None:
    for reason, status in DOWNLOAD_STATUS.items():
        assert f"| {status} | `{reason}` |" in TEXT


def test_every_word_of_an_order_and_of_a_report_is_explained() -> None:
    terms = [*DownloadRequest.model_fields, *SECRET_KEYS, *OPTION_KEYS, *DownloadState]
    assert [term for term in terms if f"`{term}`" not in TEXT] == []
    assert [kind for kind in SourceKind if f"{kind}://" not in TEXT] == []


def test_folder_of_downloads_is_the_charts() -> None:
    profile = (DOCS.parent / "charts/patio/templates/profile.yaml").read_text()
    assert f"mountPath: {DEFAULT_DOWNLOAD_ROOT}}}" in profile
