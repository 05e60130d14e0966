"""Signatures and passwords of URLs: in nothing that is written, whatever command fails in whatever way."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.commands import TRAINING, run
from tests.support.range_server import RangeServer
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.manifest.entries import slide_id
from wsi_ats.shown import cell, printable, public_url, redacted, shown, url_id
from wsi_ats.slides.storage import remote, urls

SECRETS = ("hunter2", "S1GNATURE", "T0KEN", "s3cr3t word")


def signed(server: RangeServer, name: str) -> str:
    query = f"X-Amz-Signature={SECRETS[1]}&access_token={SECRETS[2]}&odd={SECRETS[3]}"
    return f"http://me:{SECRETS[0]}@127.0.0.1:{server.port}/{name}?{query}#{SECRETS[1]}"


def secrets_in(folder: Path, *said: str) -> list[str]:
    """Where a secret stands: in a text that was printed, or in a file or its name."""
    met = [text for text in said if any(secret in text for secret in SECRETS)]
    for path in folder.rglob("*"):
        content = bytes(path.relative_to(folder)) + (path.read_bytes() if path.is_file() else b"")
        met += [str(path) for secret in SECRETS if secret.encode() in content]
    return met


@pytest.mark.parametrize("fault", ["", "403", "404", "drop", "cut"])
def test_no_writer_tells_them(place: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("WSI_ATS_CACHE", str(place / "cache"))
    monkeypatch.setattr(urls, "RETRIES", {**urls.RETRIES, "max_retries": 0})
    monkeypatch.setattr(remote, "BODY_ATTEMPTS", 1)
    failing = 1 if fault else 0
    with RangeServer((place / "slides").resolve(), faults=(fault,) * 999 if fault else ()) as server:
        url = signed(server, "test_0.tif")
        given = ["predict", "run/model", url, "--out", "one", "--workers", "0", "--tiles", "4"]
        monkeypatch.setattr(sys, "argv", ["wsi-ats", *given])
        said = [run(*given, status=failing)]
        table = place / "in" / "m.csv"
        table.parent.mkdir()
        table.write_text(f"slide,note\n{url},see {url.partition('odd')[0]}\n")
        said += [run(*given[:2], table, "--out", "two", *given[5:], status=failing)]
        said += [run("info", url, "--properties", status=2 * failing)]
        said += [run("heatmap", "run/model", url, "--tiles", "4", "--out", "a.png", status=2 * failing)]
        said += [run("convert", url, "a.ome.zarr", status=2 * failing)]
    table.unlink()
    assert secrets_in(place, *(result.output + result.stderr for result in said)) == []
    assert Path("one/run.json").exists()
    assert "http://127.0.0.1" in Path("two/predictions.csv").read_text()


def test_training_does_not_tell_them(place: Path, cohort: Path) -> None:
    pytest.importorskip("obstore")
    lines = cohort.read_text().splitlines()
    with RangeServer(cohort.parent) as server:
        far = [
            ",".join([signed(server, name), *rest])
            for name, *rest in (line.split(",") for line in lines[1:3])
        ]
        near = [f"{cohort.parent}/{line}" for line in lines[3:11]]
        lost = f"{signed(server, 'none.tif')},normal,train"
        table = place / "m.csv"
        table.write_text("\n".join([lines[0], *far, *near, lost]) + "\n")
        result = run("train", table, "--out", "run-2", *TRAINING, "--set", "train.epochs=1", status=1)
    table.unlink()
    assert secrets_in(place, result.output + result.stderr) == []
    assert "none.tif" in Path("run-2/failures.csv").read_text()
    assert "/train_0.tif" in Path("run-2/slides.csv").read_text()


def test_complaints_about_arguments_do_not_tell_them() -> None:
    url = f"https://me:{SECRETS[0]}@host/a?sig={SECRETS[1]}"
    for words in (["info", "a.svs", url], [url], ["info", f"--{url}"]):
        result = run(*words, status=2)
        assert secrets_in(Path("/nowhere"), result.output + result.stderr) == []
        assert "https://host/a" in result.output + result.stderr


def test_a_dask_worker_may_print_a_job() -> None:
    url = f"https://me:{SECRETS[0]}@host/a.svs?sig={SECRETS[1]}"
    assert SECRETS[0] not in repr(SlideItem(slide_id(url), url)) + slide_id(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:SECRET@host/a.svs",
        "https://me:p%40SECRET%2F@host/a.svs",
        "https://me:a/SECRET@host/a.svs",
        "https://me:a?SECRET@host/a.svs",
        "https://me:a#SECRET@host/a.svs",
        "https://a@b:it's/SECRET@host/a.svs",
        "s3://AKIA:SECRET@host/a.svs",
        "https://host/a.svs?sv=2020&sig=SECRET%3D",
        "https://host/a.svs?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET",
        "https://host/a.svs?token=SECRET",
        "https://host/a.svs#SECRET",
        "https://host/a.svs?to=https://me:SECRET@other/b?c",
    ],
)
def test_every_place_of_a_secret(url: str) -> None:
    for text in (url, f"cannot read {url}", f"'{url}', says the server", f"{url!r}: {url}", f"({url})"):
        assert "SECRET" not in redacted(text)
        assert "://host/a.svs" in redacted(text)
    assert public_url(url) == f"{url.partition('://')[0]}://host/a.svs"
    assert "SECRET" not in url_id(url)


letters = st.text("abcdefghijklmnopqrstuvwxyzABCDEFG0123456789!$&*+,;=%:@/?#~'.-_", min_size=4, max_size=30)
plain = st.text("abcdefgh0123456789", min_size=1, max_size=12)


@given(
    secret=letters,
    word=plain,
    place=st.sampled_from(["{s}@h/a", "me:{s}@h/a", "h/a?x={s}", "h/a?{s}", "h/a#{s}"]),
)
def test_a_secret_never_leaks(secret: str, word: str, place: str) -> None:
    # A slash, ? or # in a password is written as %2F, %3F, %23; test_every_place_of_a_secret has some that are not.
    marked = f"XX{quote(secret, safe='@:!$&()*+,;=~') if '@h' in place else secret}YY"
    url = "https://" + place.format(s=marked)
    for text in (url, f"{word} {url} {word}", f"'{url}'"):
        for made in (redacted(text), shown(text), cell(text), public_url(text)):
            assert "XX" not in made
            assert "YY" not in made


@example("https://h/x?sig=1\nwhat? it's")
@example("\x1b[31m\u202eabc\ud800\udcff\u2028")
@given(st.text(st.characters(codec=None), max_size=60) | st.text("ht:/p?#@'\"\n =", max_size=40))
def test_what_is_shown_obeys_nothing_and_is_shown_the_same_again(text: str) -> None:
    for made in (shown(text), cell(text)):
        made.encode("utf-8")
        assert made == "" or (printable(made) == made and "\n" not in made and "\x1b" not in made)
    assert shown(shown(text)) == shown(text)
    assert cell(cell(text)) == cell(text)
    assert redacted(redacted(text)) == redacted(text)


@given(
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=60).filter(
        lambda t: "://" not in t
    )
)
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_urls_without_secrets_are_left_as_they_are() -> None:
    for text in (
        "see https://host:80/a@b/c.svs, and http://[::1]:8/x.",
        "s3://bucket/a b",
        "file:///a/b.svs",
    ):
        assert redacted(text) == text
