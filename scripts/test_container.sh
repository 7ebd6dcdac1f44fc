#!/usr/bin/env bash
# Builds the image for real and runs the quickstart in it, on a short setting, where there is no
# container daemon: with buildah, on a base made of Debian's packages and the CPU's torch.
# Needs root on Debian, the network, about 12 GB of disk, and ten minutes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

: "${CONTAINER_USER:=12345:12345}"   # not root, and no user of the image
if [[ $(id -u) != 0 || ! -f /etc/debian_version ]]; then
    echo "error: scripts/test_container.sh: needs root on Debian" >&2
    exit 2
fi
install_debian buildah debootstrap
prepare_python requirements-quickstart.txt

work=$(mktemp -d /var/tmp/container.XXXXXX)
finish() {
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
# buildah without a daemon, namespaces or an overlay: works inside of containers, too.
cat >"$work/storage.conf" <<CONF
[storage]
driver = "vfs"
graphroot = "$work/storage"
runroot = "$work/run"
CONF
export CONTAINERS_STORAGE_CONF=$work/storage.conf BUILDAH_ISOLATION=chroot
export CONTAINER_ENGINE=buildah CONTAINER_USER

# report MESSAGE: print it with the seconds since the start.
report() {
    echo "== $1 (after $SECONDS s)"
}

report "wheels"
"$PYTHON" -m pip wheel -qq -w "$work/wheels" "torch==$TORCH_VERSION" \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
"$PYTHON" -m pip wheel -qq -w "$work/wheels" --find-links "$work/wheels" -r requirements-quickstart.txt
"$PYTHON" -m pip download -qq -d "$work/wheels" --only-binary :all: -r requirements-decode.txt || true

report "base image"
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" \
    'Origin: Debian' | head -1)
debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
    "$codename" "$work/debian" "$mirror" >"$work/debootstrap.log" || {
    tail -5 "$work/debootstrap.log" >&2
    exit 1
}
printf '[global]\nno-index = true\nfind-links = /opt/wheels\n' >"$work/debian/etc/pip.conf"
rm -rf "$work/debian/var/cache/apt" "$work/debian/var/lib/apt/lists"
container=$(buildah from scratch)
buildah copy -q "$container" "$work/debian" / >/dev/null
rm -rf "$work/debian"
buildah run -v "$work/wheels:/opt/wheels:ro" "$container" -- \
    python3 -m pip install -q --no-cache-dir --break-system-packages --root-user-action ignore "torch==$TORCH_VERSION"
buildah commit -q --rm "$container" localhost/base:torch >/dev/null

report "image"
bash scripts/docker/build.sh --build-arg FROM_IMAGE_NAME=localhost/base:torch \
    --volume "$work/wheels:/opt/wheels:ro"
buildah inspect --type image --format '{{.Docker.Config.Healthcheck}} {{.Docker.Config.Labels}}' \
    localhost/wav2vec2-recipes | tee "$work/about"
grep -q "import torch, soundfile, common, wav2vec2" "$work/about"
grep -q "org.opencontainers.image.licenses:Apache-2.0" "$work/about"

mkdir "$work/data" "$work/results"
chown "$CONTAINER_USER" "$work/data" "$work/results"
export DATA_DIR=$work/data RESULTS_DIR=$work/results
report "health check"
bash scripts/docker/run.sh python3 -c 'import torch, soundfile, common, wav2vec2; print(torch.__version__)'
report "quickstart"
MINUTES=3 LABEL_MINUTES=2 PRETRAIN_UPDATES=30 FINETUNE_UPDATES=60 DATASET_DIR=/datasets/mini \
    bash scripts/docker/run.sh bash scripts/quickstart.sh
"$PYTHON" - "$work/results/quickstart" "${CONTAINER_USER%%:*}" <<'PYTHON'
import json
import pathlib
import sys

results, user = pathlib.Path(sys.argv[1]), int(sys.argv[2])
summary = json.loads((results / "summary.json").read_text())
# So short a training writes letters, not words: more of these may be wrong than there are.
assert summary["utterances"] >= 200 and 0 < summary["uer"] < 100, summary
owners = {path.stat().st_uid for path in [results, *results.rglob("*")]}
assert owners == {user}, f"results belong to {owners}, not to {user} alone"
PYTHON
report "the image works: quickstart run as user $CONTAINER_USER, its results belong to it"
