"""Wrong usage exits with 2 and one line that names what is wrong."""

from __future__ import annotations

import pytest

from engine.cli import main


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "required: VERB"),
        ("gallery", "required: VERB"),
        ("search staff", "invalid choice: 'search'"),
        ("status --server somewhere", "expected HOST:PORT"),
        ("status --server :7300", "expected HOST:PORT"),
        ("status --timeout-s 0", "expected seconds"),
        ("status --timeout-s soon", "expected seconds"),
        ("status --serv 127.0.0.1:1", "unrecognized arguments"),
        ("enroll staff ada", "required: PICTURE"),
        ("enroll staff ada a.jpg --attribute team", "expected KEY=VALUE"),
        ("enroll staff ada a.jpg --attribute =x", "expected KEY=VALUE"),
        ("enroll staff ada a.jpg --face all", "invalid choice: 'all'"),
        ("enroll staff ada a.jpg --min-face-px 11", "from 12"),
        ("enroll staff ada a.jpg --attribute a=1 --attribute a=2", "names a key twice"),
        ("enroll staff ada - -", "read only once"),
        ("identify staff", "required: PICTURE"),
        ("identify staff a.jpg --k 0", "from 1 to 100"),
        ("identify staff a.jpg --k 101", "from 1 to 100"),
        ("identify staff a.jpg --k many", "from 1 to 100"),
        ("identify staff a.jpg --filter site", "expected KEY=VALUE"),
        ("identify staff a.jpg --filter a=1 --filter a=2", "names an attribute twice"),
        ("identify staff a.jpg --fusion median", "invalid choice: 'median'"),
        ("recall staff --probes 0", "from 1 to 10000"),
        ("identify staff a.jpg --threshold 1.1", "similarity from -1 to 1"),
        ("identify staff a.jpg --threshold nan", "similarity from -1 to 1"),
        ("identify staff a.jpg --plot out.jpg", "a .png file"),
        ("identify staff a.jpg b.jpg --plot out.png", "draws on one picture"),
        ("verify", "GALLERY IDENTITY PICTURE"),
        ("verify staff ada", "GALLERY IDENTITY PICTURE"),
        ("verify staff ada a.jpg b.jpg", "GALLERY IDENTITY PICTURE"),
        ("verify staff ada a.jpg --pictures a.jpg b.jpg", "either"),
        ("verify --pictures a.jpg", "expected 2 arguments"),
        ("verify --pictures - -", "read only once"),
        ("embed a.jpg --out rows.csv", "a .npy file"),
        ("remove staff ada --template 0", "from 1"),
        ("gallery create g --dimension 1", "from 2 to 1024"),
        ("gallery create g --dimension 128", "needs --threshold"),
        ("gallery create g --contract mine", "--contract needs --dimension"),
        ("gallery create g --templates-max 17", "from 1 to 16"),
        ("gallery update staff", "what to change"),
        ("gallery update staff --threshold 0.5 --clear-threshold", "either --threshold"),
        ("gallery alias staff", "either the GALLERY"),
        ("gallery alias staff", "see identiface gallery alias --help"),
        ("gallery create Bad_Name", "1 to 63 lower-case letters"),
        ("verify Staff ada a.jpg", "1 to 63 lower-case letters"),
        ("enroll staff -ada a.jpg", "put -- before a name that begins with -"),
        ("enroll staff -ada a.jpg b.jpg", "put -- before a name that begins with -"),
        ("gallery alias staff staff-2 --delete", "either the GALLERY"),
        ("gallery create staff --target-fpir 0", "a share of strangers, more than 0 and less than 1"),
        ("gallery create staff --target-fpir 1", "more than 0 and less than 1"),
        ("gallery create staff --target-fpir nan", "more than 0 and less than 1"),
        ("gallery create staff --target-fpir few", "more than 0 and less than 1"),
        ("gallery create staff --target-fmr 2", "more than 0 and less than 1"),
        ("gallery create staff --review-fpir 0.1", "--review-fpir needs --target-fpir"),
        ("gallery create staff --target-fpir 0.1 --review-fpir 0.1", "must be more than --target-fpir"),
        ("gallery create staff --target-fpir 0.1 --threshold 0.9", "either --threshold or --target-fpir"),
        ("gallery create staff --ambiguity nan", "from 0 to 2"),
        ("gallery create staff --ambiguity -0.1", "from 0 to 2"),
        ("gallery create staff --crowding maybe", "invalid choice: 'maybe'"),
        ("gallery update staff --target-fpir 0.1 --threshold 0.9", "either --threshold or --target-fpir"),
        (
            "gallery update staff --target-fpir 0.1 --clear-target-fpir",
            "--target-fpir or --clear-target-fpir",
        ),
        ("gallery update staff --target-fmr 0.1 --clear-target-fmr", "--target-fmr or --clear-target-fmr"),
        ("serve", "--data is needed"),
        ("serve --data d --listen 7300", "expected HOST:PORT"),
        ("serve --data d --listen 127.0.0.1:99999", "a port up to 65535"),
        ("serve --data d --device gpu", "invalid choice: 'gpu'"),
        ("calibrate", "one of the arguments --data --vectors --gallery is required"),
        ("calibrate --data d --vectors v.npy", "not allowed with argument --data"),
        ("calibrate --data d --target-fpir 0", "share between 0 and 1"),
        ("calibrate --data d --target-fpir 0.1 1", "share between 0 and 1"),
        ("calibrate --data d --target-fpir nan", "share between 0 and 1"),
        ("calibrate --data d --size 0", "from 1 to"),
        ("calibrate --data d --resamples 1", "from 20 to"),
        ("calibrate --data d --out table.csv", "a .json file"),
        ("calibrate --data d --labels l.csv", "--labels goes with --vectors"),
        ("calibrate --gallery g --model m --keep", "--gallery goes without --model, --keep"),
        ("evaluate pairs --pairs p", "one of the arguments --root --vectors is required"),
        ("evaluate pairs --root r --pairs p --face all", "invalid choice: 'all'"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(line.split())
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("identiface")
    assert "--help" in err
    assert out == ""


def test_an_empty_identity_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["enroll", "staff", "", "a.jpg"])
    assert ended.value.code == 2
    assert "the identity is empty" in capsys.readouterr().err
