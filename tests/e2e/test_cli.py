"""The verbs as a person or a script runs them: real processes, a real server, real faces."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from engine.client import Client, EnrollItem
from engine.types import EmbeddingContract
from tests.e2e.conftest import PROGRAM, ServerProcess

pytestmark = [pytest.mark.e2e]
RUN_S = 120.0
CONTRACT = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=4, threshold=0.9)


@dataclass(frozen=True)
class Run:
    """What one run of the command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one object."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def jsons(self) -> list[Any]:
        """Its objects, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def run(server: ServerProcess | None, *arguments: str | Path, stdin: bytes = b"") -> Run:
    """Run a verb to its end."""
    where = [] if server is None else ["--server", server.address]
    command = [str(PROGRAM), *map(str, arguments), *where]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_S, check=False)
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


def answered(server: ServerProcess | None, *arguments: str | Path, stdin: bytes = b"") -> Run:
    """Run a verb that must be answered without a word on stderr."""
    done = run(server, *arguments, stdin=stdin)
    assert (done.code, done.err) == (0, "")
    return done


def refused(server: ServerProcess | None, *arguments: str | Path) -> str:
    """Run a verb that must fail with 1 and one line on stderr; returns the line."""
    done = run(server, *arguments)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("identiface: ")
    assert "Traceback" not in done.err
    return done.err


def sample(package: str, path: str) -> Path:
    """A picture that a package carries."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed: pip install identiface[demo]")
    return Path(found.origin).parent / path


@pytest.fixture(scope="module")
def ada() -> Path:
    """Eileen Collins, 512x512, RGB."""
    return sample("skimage", "data/astronaut.png")


@pytest.fixture(scope="module")
def grace() -> Path:
    """Grace Hopper, 512x600, RGB."""
    return sample("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")


@pytest.fixture(scope="module")
def cup() -> Path:
    """A cup of coffee, without a face."""
    return sample("skimage", "data/coffee.png")


@pytest.fixture(scope="module")
def staff(picture_server: ServerProcess, ada: Path, grace: Path) -> str:
    """A gallery that holds Ada and Grace, enrolled by the command."""
    answered(picture_server, "gallery", "create", "staff")
    told = answered(picture_server, "enroll", "staff", "ada", ada, "--attribute", "team=space", "--json").json
    assert (told["added"], told["is_new_identity"], told["sequence"]) == (1, True, 1)
    assert len(told["faces"][0]["box"]) == 4
    line = answered(picture_server, "enroll", "staff", "grace", grace).out
    assert line == "grace: 1 template added (new identity, sequence 2)\n"
    return "staff"


@pytest.mark.model
def test_an_altered_copy_is_found_and_a_stranger_is_not(
    picture_server: ServerProcess, staff: str, ada: Path, grace: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "altered.jpg"
    picture = Image.open(ada).convert("RGB").resize((400, 400))
    ImageEnhance.Brightness(picture).enhance(0.8).save(altered, quality=70)
    told = answered(picture_server, "identify", staff, altered, "--json").json
    (face,) = told["faces"]
    best = face["candidates"][0]
    assert (face["decision"], best["identity_id"]) == ("MATCH", "ada")
    assert face["threshold"] <= best["similarity"] < 1.0
    assert face["searched_sequence"] >= 2
    answered(picture_server, "gallery", "create", "others")
    answered(picture_server, "enroll", "others", "grace", grace)
    (stranger,) = answered(picture_server, "identify", "others", altered, "--json").json["faces"]
    assert stranger["decision"] == "NO_MATCH"
    assert stranger["candidates"][0]["similarity"] < stranger["threshold"]


@pytest.mark.model
def test_claims_are_verified_against_an_identity_or_another_picture(
    picture_server: ServerProcess, staff: str, ada: Path, grace: Path
) -> None:
    told = answered(picture_server, "verify", staff, "ada", ada, "--json").json
    assert told["decision"] == "MATCH"
    assert told["similarity"] >= told["threshold"]
    assert answered(picture_server, "verify", staff, "ada", grace, "--json").json["decision"] == "NO_MATCH"
    pair = answered(picture_server, "verify", "--pictures", ada, grace, "--json").json
    assert pair["decision"] == "NO_MATCH"
    assert answered(picture_server, "verify", "--pictures", ada, ada).out.startswith(
        "MATCH: similarity 1.0000"
    )


@pytest.mark.model
def test_a_picture_may_come_by_standard_input(picture_server: ServerProcess, staff: str, grace: Path) -> None:
    told = answered(picture_server, "identify", staff, "-", "--json", stdin=grace.read_bytes()).json
    assert told["picture"] == "-"
    assert told["faces"][0]["candidates"][0]["identity_id"] == "grace"


@pytest.mark.model
def test_a_folder_gives_one_answer_a_line_and_a_bad_picture_does_not_stop_the_others(
    picture_server: ServerProcess, staff: str, ada: Path, grace: Path, cup: Path, tmp_path: Path
) -> None:
    shutil.copy(ada, tmp_path / "1.png")
    (tmp_path / "2.jpg").write_bytes(b"")
    shutil.copy(cup, tmp_path / "3.png")
    shutil.copy(grace, tmp_path / "4.jpg")
    done = run(picture_server, "identify", staff, tmp_path, "--json")
    assert [Path(told["picture"]).name for told in done.jsons] == ["1.png", "2.jpg", "3.png", "4.jpg"]
    first, bad, empty, last = done.jsons
    assert first["faces"][0]["candidates"][0]["identity_id"] == "ada"
    assert bad["error"]["reason"] == "UNDECODABLE_PICTURE"
    assert empty["faces"] == []
    assert last["faces"][0]["candidates"][0]["identity_id"] == "grace"
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"1 of 4 pictures could not be used, first {tmp_path / '2.jpg'}: no bytes" in done.err
    text = run(picture_server, "identify", staff, tmp_path)
    assert f"{tmp_path / '2.jpg'}: not used: no bytes" in text.out
    assert f"{tmp_path / '3.png'}: no face" in text.out


@pytest.mark.model
def test_plots_are_pngs_of_the_pictures_size_with_something_drawn(
    picture_server: ServerProcess, staff: str, ada: Path, tmp_path: Path
) -> None:
    plain = np.asarray(Image.open(ada).convert("RGB"))
    for verb in (["identify", staff], ["detect"]):
        plot = tmp_path / f"{verb[0]}.png"
        assert f"drawn on {plot}" in answered(picture_server, *verb, ada, "--plot", plot).out
        drawn = np.asarray(Image.open(plot))
        assert drawn.shape == plain.shape
        assert 0.0 < np.mean(np.any(drawn != plain, axis=2)) < 0.2
    message = refused(picture_server, "identify", staff, ada, "--plot", tmp_path / "nowhere" / "plot.png")
    assert "cannot write" in message


@pytest.mark.model
def test_faces_are_found_and_embedded_without_a_gallery(
    picture_server: ServerProcess, ada: Path, grace: Path, cup: Path, tmp_path: Path
) -> None:
    (face,) = answered(picture_server, "detect", ada, "--json").json["faces"]
    assert len(face["keypoints"]) == 5
    assert 0.9 < face["confidence"] <= 1.0
    rows = tmp_path / "rows.npy"
    told = answered(picture_server, "embed", ada, cup, grace, "--out", rows, "--json").jsons
    assert [[face["row"] for face in each["faces"]] for each in told] == [[0], [], [1]]
    vectors = np.load(rows)
    assert (vectors.shape, vectors.dtype) == ((2, 128), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    printed = answered(picture_server, "embed", ada, "--json").json["faces"][0]["vector"]
    np.testing.assert_allclose(printed, vectors[0], atol=1e-5)
    answered(picture_server, "embed", cup, "--out", rows)
    assert np.load(rows).shape == (0, 128)


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jpg", b"", "empty.jpg: no bytes"),
        ("text.jpg", b"This is no picture.", "text.jpg: not a picture of a known format"),
        ("torn.jpg", None, "torn.jpg: damaged JPEG picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_name(
    picture_server: ServerProcess,
    staff: str,
    grace: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(grace.read_bytes()[:20_000] if content is None else content)
    for verb in (["identify", staff], ["enroll", staff, "eve"], ["verify", staff, "ada"], ["detect"]):
        assert said in refused(picture_server, *verb, path)


@pytest.mark.model
def test_enrolling_names_the_picture_that_cannot_be_and_enrolls_none(
    picture_server: ServerProcess, staff: str, ada: Path, cup: Path
) -> None:
    message = refused(picture_server, "enroll", staff, "eve", ada, cup)
    assert f"{cup}: the picture holds no face" in message
    assert "--min-face-px" in message
    assert "'eve' is not enrolled" in refused(picture_server, "remove", staff, "eve")


@pytest.mark.model
def test_a_picture_over_the_message_limit_is_named_before_it_is_sent(
    picture_server: ServerProcess, staff: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(65 * 2**20)
    message = refused(picture_server, "identify", staff, large)
    assert f"{large} is over the limit of 64 MiB" in message


@pytest.mark.model
def test_removed_is_not_found_any_more(picture_server: ServerProcess, ada: Path) -> None:
    answered(picture_server, "gallery", "create", "leavers")
    answered(picture_server, "enroll", "leavers", "ada", ada)
    assert (
        "ada: 1 template removed, gone from every file"
        in answered(picture_server, "remove", "leavers", "ada", "--erase").out
    )
    (face,) = answered(picture_server, "identify", "leavers", ada, "--json").json["faces"]
    assert (face["decision"], face["candidates"]) == ("NO_MATCH", [])


@pytest.mark.model
def test_status_names_version_device_model_and_galleries(picture_server: ServerProcess, staff: str) -> None:
    told = answered(picture_server, "status", "--json").json
    assert (told["device"], told["model"]) == ("cpu", "dlib-resnet")
    (gallery,) = (gallery for gallery in told["galleries"] if gallery["id"] == staff)
    assert (gallery["identities"], gallery["templates"], gallery["sequence"]) == (2, 2, 2)
    text = answered(picture_server, "status").out
    assert text.startswith(
        f"identiface {told['version']} at {picture_server.address}, model dlib-resnet on cpu"
    )


def test_a_server_of_vectors_says_so_and_refuses_pictures(
    vector_server: ServerProcess, tmp_path: Path
) -> None:
    told = answered(vector_server, "status", "--json").json
    assert (told["device"], told["model"]) == ("none", "none")
    assert "vectors only" in answered(vector_server, "status").out
    answered(vector_server, "gallery", "create", "words", "--dimension", "4", "--threshold", "0.9")
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"\xff\xd8\xff")
    assert "--model" in refused(vector_server, "identify", "words", picture)
    assert "contract" in refused(vector_server, "gallery", "create", "faces")


def test_galleries_and_aliases_come_and_go(vector_server: ServerProcess) -> None:
    create = ("--dimension", "4", "--contract", "mine", "--threshold", "0.5", "--templates-max", "3")
    told = answered(vector_server, "gallery", "create", "one", *create, "--json").json
    assert (told["model"], told["dimension"], told["threshold"]) == ("mine", 4, 0.5)
    assert told["templates_per_identity_max"] == 3
    assert "one" in refused(vector_server, "gallery", "create", "one", *create)
    answered(vector_server, "gallery", "create", "two", *create)
    assert answered(vector_server, "gallery", "alias", "now", "one").out == "now names one\n"
    moved = answered(vector_server, "gallery", "alias", "now", "two", "--json").json
    assert moved == {"alias": "now", "id": "two", "previous_id": "one"}
    assert answered(vector_server, "gallery", "show", "now", "--json").json["aliases"] == ["now"]
    assert "alias" in refused(vector_server, "gallery", "delete", "two")
    answered(vector_server, "gallery", "alias", "now", "--delete")
    answered(vector_server, "gallery", "delete", "two")
    assert answered(vector_server, "gallery", "delete", "one", "--json").json["is_deleted"] is True
    ids = [told["id"] for told in answered(vector_server, "gallery", "list", "--json").json["galleries"]]
    assert not {"one", "two"} & set(ids)
    assert "identiface gallery list" in refused(vector_server, "gallery", "show", "one")


def test_lists_of_many_pages_are_complete_and_in_order(vector_server: ServerProcess) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(450, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"person {number:03}" for number in range(450)]
    with Client(vector_server.address) as client:
        client.create_gallery("crowd", CONTRACT)
        items = (EnrollItem(name, [vector]) for name, vector in zip(ids, vectors, strict=True))
        assert [name for name, _ in client.enroll_stream("crowd", items)] == ids
    told = answered(vector_server, "list", "crowd", "--json").jsons
    assert [identity["identity_id"] for identity in told] == ids
    lines = answered(vector_server, "list", "crowd").out.splitlines()
    assert lines[0].startswith("identity")
    assert [line[:10] for line in lines[1:]] == ids
    built = answered(vector_server, "build", "crowd", "--json").json
    assert (built["id"], built["templates"]) == ("crowd", 450)
    assert answered(vector_server, "build", "crowd").out.startswith(
        "crowd: generation 2 of 450 templates is current"
    )
    template = told[0]["templates"][0]["template_id"]
    line = answered(vector_server, "remove", "crowd", ids[0], "--template", str(template)).out
    assert "identity kept, 1 template removed" in line
    assert answered(vector_server, "remove", "crowd", ids[1], "--json").json["templates"] == 1
    assert len(answered(vector_server, "list", "crowd", "--json").jsons) == 449


def test_nobody_enrolled_is_said(vector_server: ServerProcess) -> None:
    answered(vector_server, "gallery", "create", "nobody", "--dimension", "4", "--threshold", "0.9")
    assert answered(vector_server, "list", "nobody").out == "nobody is enrolled in nobody\n"
    assert answered(vector_server, "list", "nobody", "--json").out == ""


def test_names_in_every_script_are_listed_as_they_are(vector_server: ServerProcess) -> None:
    names = ["Zoë", "Владимир", "山田太郎", "अदा", "عادة", "😀"]
    with Client(vector_server.address) as client:
        client.create_gallery("names", CONTRACT)
        for name in names:
            client.enroll("names", name)
    told = answered(vector_server, "list", "names", "--json").jsons
    assert [identity["identity_id"] for identity in told] == sorted(names, key=str.encode)
    text = answered(vector_server, "list", "names").out
    assert all(name in text for name in names)
    for name in names:
        answered(vector_server, "remove", "names", name)


def test_ctrl_c_while_waiting_for_a_picture_is_quiet(vector_server: ServerProcess) -> None:
    command = [str(PROGRAM), "detect", "-", "--server", vector_server.address]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        # More than a pipe holds: once it is written, the command is reading.
        process.stdin.write(bytes(2**20))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=RUN_S)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_server_that_cannot_start_says_why_in_one_line(
    vector_server: ServerProcess, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("thread = 4\n")
    serve = ("serve", "--listen", "127.0.0.1:0", "--model", "none")
    cases = [
        (("--data", vector_server.data), "in use"),
        (("--data", tmp_path / "data", "--config", settings), "did you mean `threads`?"),
        (("--data", tmp_path / "data", "--config", tmp_path / "missing.toml"), "cannot read settings file"),
        (("--data", tmp_path / "data", "--listen", "0.0.0.0:0"), "--insecure"),
        (("--data", tmp_path / "data", "--listen", vector_server.address), "cannot listen on"),
        (("--data", settings), "settings.toml"),
    ]
    for arguments, said in cases:
        assert said in refused(None, *serve, *arguments)


@pytest.mark.model
@pytest.mark.data
def test_pairs_are_evaluated_without_a_server(data_folder: Path, tmp_path: Path) -> None:
    pairs = (data_folder / "lfw" / "pairs.txt").read_text().splitlines()
    num_each = int(pairs[0].split()[1])
    same, other = pairs[1:5], pairs[1 + num_each : 5 + num_each]
    few = tmp_path / "pairs.txt"
    few.write_text("\n".join(["2\t2", *same[:2], *other[:2], *same[2:], *other[2:]]) + "\n")
    command = ("evaluate", "pairs", "--root", data_folder / "lfw" / "images", "--pairs", few)
    done = run(None, *command, "--device", "cpu", "--json")
    assert done.code == 0
    told = done.json
    assert (told["pairs"], told["folds"], told["not_detected"]) == (8, 2, 0)
    assert told["accuracy_mean"] > 0.7
    assert list(told["tar_at_far"]) == ["1e-1", "1e-2", "1e-3"]
    assert (told["face_choice"], told["min_face_px"], told["device"]) == ("centre", 70, "cpu")
    assert "missing below" in refused(None, "evaluate", "pairs", "--root", tmp_path, "--pairs", few)
