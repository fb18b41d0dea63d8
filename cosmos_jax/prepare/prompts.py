"""Gives every clip of a data set the same prompt.

    python -m cosmos_jax.prepare prompts --root=/path/to/clips --prompt="A robot folds a towel."

Layouts of the written files:

    metas            metas/NAME.txt                      one view: videos/NAME.mp4
    metas_per_view   metas/CAMERA/NAME.txt               every camera
    captions         captions/CAMERA/NAME.json           the caption camera, or those of --cameras
                     (one view: captions/NAME.json)      {"caption": "..."}

Captions that are there already, in any of these forms, are kept unless --overwrite is given.
"""

from pathlib import Path

from absl import flags

from cosmos_jax import cli

ROOT = flags.DEFINE_string("root", None, "Folder of the data set: it holds videos/.")
PROMPT = flags.DEFINE_string("prompt", None, "The words.")
LAYOUT = flags.DEFINE_enum(
    "layout",
    None,
    ["metas", "metas_per_view", "captions"],
    "Where the words go (see above); default: metas for one view, else captions.",
)
CAMERAS = flags.DEFINE_string(
    "cameras",
    None,
    "Cameras that get the words: all, or names with commas between them. Default: all for "
    "metas_per_view; for captions those that have some, or else the first.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace captions that are there.")


def main(argv: list[str]) -> None:
    """Checks the flags, then writes."""
    cli.no_arguments(argv)
    root, prompt = Path(cli.needed(ROOT)), cli.needed(PROMPT)
    from cosmos_jax.prepare import prompt_files

    with cli.user_errors():
        layout = LAYOUT.value or prompt_files.default_layout(root)
        cameras = prompt_files.speakers(root, layout, CAMERAS.value)
        written, kept = prompt_files.write_prompt(root, prompt, layout, cameras, OVERWRITE.value)
    who = f" of {', '.join(cameras)}" if cameras != ("",) else ""
    print(f"{root}: {written} captions{who} written as {layout}, {kept} kept")
