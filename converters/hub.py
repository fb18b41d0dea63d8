"""Sources of weights: paths, and files of the Hugging Face hub as `hf://OWNER/NAME/FILE`."""

import re
from collections.abc import Mapping
from pathlib import Path

from converters import cv8x8x8
from converters.dcp import METADATA, open_dcp
from converters.safetensors_files import INDEX, open_safetensors, weight_map
from converters.stored import Stored
from converters.torch_files import open_torch

SCHEME = "hf://"
FOLDER = ("*.safetensors", "*.json", "*.txt", "*.model", METADATA, "*.distcp", *cv8x8x8.FILES)


def is_remote(source: str) -> bool:
    """Whether a source is a file of the hub."""
    return source.startswith(SCHEME)


def resolve(source: str) -> Path:
    """The local path of a source; a file of the hub is fetched once and kept in its cache.

    `hf://OWNER/NAME[@REVISION][/PATH]`: a path with a suffix is one file (of an index, its files
    too); any other is a folder.

    Raises:
        ValueError: the file is not there, needs a licence to be accepted, or cannot be reached.
    """
    if not is_remote(source):
        return Path(source).expanduser()
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", source)
    if not match:
        raise ValueError(f"{source} is not of the form hf://OWNER/NAME[@REVISION]/FILE")
    repository, revision, inside = match[1], match[2], (match[3] or "").strip("/")
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if Path(inside).suffix:
            path = Path(huggingface_hub.hf_hub_download(repository, inside, revision=revision))
            if not inside.endswith(INDEX):
                return path
            folder = inside.rpartition("/")[0]
            names = [Path(inside).name, *sorted(set(weight_map(path).values()))]
        else:
            folder, names = inside, list(FOLDER)
        prefix = f"{folder}/" if folder else ""
        root = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[prefix + name for name in names],
            ignore_patterns=[f"{prefix}*/*"],  # a * above stands for folders too
        )
        if not (Path(root) / inside).exists():
            raise ValueError(
                f"{source}: {repository} has no weights in {inside or 'its top folder'}"
            )
        return Path(root) / inside
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{source}: the licence must be accepted on the page of {repository} first; then log "
            "in with `hf auth login`, or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{source}: {repository} does not exist, or your token may not see it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{source}: {repository} has no revision {revision}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ValueError(
            f"{source} is not in the local cache, and the hub cannot be reached; connect, or give "
            "the path of a copy"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"{source}: {repository} has no file {inside}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ValueError(f"{source} could not be fetched: {error}") from error


def open_tensors(source: str) -> Mapping[str, Stored]:
    """The tensors of PyTorch weights in any of the formats, told by what is there.

    Raises:
        ValueError: nothing is there, or nothing that is known.
    """
    path = resolve(source)
    if not path.exists():
        raise ValueError(f"{source} is not there")
    if path.is_dir():
        if (path / METADATA).exists() or (path / "model" / METADATA).exists():
            return open_dcp(path)
        if list(path.glob("*.distcp")):
            return open_dcp(path)  # says that .metadata is missing
        if list(path.glob("*.safetensors")) or list(path.glob(f"*{INDEX}")):
            return open_safetensors(path)
        if cv8x8x8.is_folder(path):
            return cv8x8x8.open_folder(path)
        raise ValueError(
            f"{path} holds no weights: neither {METADATA} with *.distcp, nor *.safetensors, nor a "
            f"tokenizer ({', '.join(cv8x8x8.FILES)}), nor a checkpoint of ours"
        )
    with path.open("rb") as file:
        head = file.read(9)
    if path.name.endswith((".safetensors", INDEX)) or head[8:] == b"{":
        return open_safetensors(path)
    return open_torch(path)
