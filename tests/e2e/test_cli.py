"""The verbs on real faces, as a person or a script runs them, against a real server."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.e2e.command import answered, refused, run, sample
from tests.e2e.conftest import ServerProcess

pytestmark = [pytest.mark.e2e]


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
    (proven,) = answered(picture_server, "identify", staff, altered, "--exact", "--json").json["faces"]
    assert (proven["candidates"], proven["is_exact"]) == (face["candidates"], True)
    for value, found in (("space", ["ada"]), ("sea", [])):
        asked = ["--filter", f"team={value}", "--fusion", "mean", "--json"]
        (one,) = answered(picture_server, "identify", staff, altered, *asked).json["faces"]
        assert [candidate["identity_id"] for candidate in one["candidates"]] == found
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
    line = answered(picture_server, "verify", "--pictures", ada, ada).out
    assert line.startswith(f"{ada} and {ada}: MATCH, similarity 1.0000, threshold ")
    assert line.endswith(" of the network\n")
    assert answered(picture_server, "verify", staff, "ada", ada).out.startswith(f"{ada} as ada: MATCH, ")


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
    picture_server: ServerProcess, staff: str, ada: Path, cup: Path, tmp_path: Path
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
    assert "there is no folder" in message
    told = answered(picture_server, "identify", staff, cup, "--plot", tmp_path / "cup.png").out
    assert "nothing on it: no face was found" in told


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
def test_what_is_no_picture_is_refused_by_its_name(
    picture_server: ServerProcess, staff: str, grace: Path, tmp_path: Path
) -> None:
    cases = [
        ("empty.jpg", b"", "empty.jpg: no bytes"),
        ("text.jpg", b"This is no picture.", "text.jpg: not a picture of a known format"),
        ("torn.jpg", grace.read_bytes()[:20_000], "torn.jpg: damaged JPEG picture"),
    ]
    for name, content, said in cases:
        (tmp_path / name).write_bytes(content)
        for verb in (["identify", staff], ["enroll", staff, "eve"], ["verify", staff, "ada"], ["detect"]):
            assert said in refused(picture_server, *verb, tmp_path / name)


@pytest.mark.model
def test_enrolling_names_the_picture_that_cannot_be_and_enrolls_none(
    picture_server: ServerProcess, staff: str, ada: Path, cup: Path
) -> None:
    message = refused(picture_server, "enroll", staff, "eve", ada, cup)
    assert f"{cup}: the picture holds no face" in message
    assert "--min-face-px" in message
    assert "'eve' is not enrolled" in refused(picture_server, "remove", staff, "eve")


@pytest.mark.model
def test_a_folder_of_more_than_an_identity_keeps_is_taken_with_evict_only(
    picture_server: ServerProcess, ada: Path, cup: Path, tmp_path: Path
) -> None:
    answered(picture_server, "gallery", "create", "many")
    picture = Image.open(ada).convert("RGB").crop((100, 0, 400, 300))
    for number in range(19):
        ImageEnhance.Brightness(picture).enhance(0.7 + number / 30).save(tmp_path / f"{number:02}.jpg")
    message = refused(picture_server, "enroll", "many", "ada", tmp_path)
    assert f"{tmp_path} holds 19 pictures, but an identity keeps at most 16 templates" in message
    assert "--evict" in message
    assert "samples" not in message
    answered(picture_server, "enroll", "many", "ada", ada)
    told = answered(picture_server, "enroll", "many", "ada", tmp_path, "--evict", "--replace", "--json").json
    (identity,) = answered(picture_server, "list", "many", "--json").jsons
    ids = {template["template_id"] for template in identity["templates"]}
    assert (told["replaced"], told["is_new_identity"], len(told["faces"]), len(ids)) == (1, False, 19, 16)
    assert set(told["template_ids"]) - {0} == ids
    shutil.copy(cup, tmp_path / "99.png")
    done = run(picture_server, "enroll", "many", "ada", tmp_path, "--evict", "--json")
    assert done.code == 1
    assert (done.json["picture"], done.json["error"]["reason"]) == (str(tmp_path / "99.png"), "NO_FACE")
    assert f"the 16 pictures before {tmp_path / '16.jpg'} are enrolled" in done.err


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
    at = f"identiface {told['version']} at {picture_server.address}"
    assert answered(picture_server, "status").out.startswith(f"{at}, model dlib-resnet on cpu")


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
