# What the scripts share: sourced by them, never run. They work from the checkout's root, in a
# Python environment of its own there, .venv, which is made anew when pyproject.toml has changed.

set -euo pipefail
started_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() {
    echo "$(basename "$0"): $*" >&2
}

fail() {
    say "$*"
    exit 1
}

# need_packages PACKAGE=FILE...: where a FILE (a program, or a path's pattern if there is a slash)
# is missing, as root with apt install its PACKAGE; elsewhere say so and return 1.
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        is_there "${pair#*=}" || missing+=("${pair%%=*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "missing: ${missing[*]} (apt install ${missing[*]})"
        return 1
    fi
    say "installing ${missing[*]}"
    apt_get update
    # One that this release does not have must not keep the others away.
    apt_get install "${missing[@]}" || for pair in "${missing[@]}"; do
        apt_get install "$pair" || say "$pair cannot be installed"
    done
}

is_there() {
    case $1 in
    */*) compgen -G "$1" >/dev/null ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

apt_get() {
    local verb=$1
    shift
    DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --no-install-recommends "$verb" "$@" \
        </dev/null >/dev/null
}

# python_packages: print what need_packages is to be asked for before need_python can succeed.
python_packages() {
    is_there python3 || echo python3=python3
    python3 -c 'import ensurepip' 2>/dev/null ||
        echo 'python3-venv=/usr/lib/python3*/ensurepip/__init__.py'
}

# need_python [PIP-ARGUMENT...]: put the environment, with imagefs and with what the arguments ask
# pip for, in front of PATH.
need_python() {
    is_there python3 || need_packages $(python_packages) || exit 1
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "needs Python 3.11 or later, and python3 is $(python3 --version)"
    local made_for=.venv/made-for wanted
    wanted=$(python3 --version && echo "$PWD" && cat pyproject.toml)
    if [ "$(cat "$made_for$*" 2>/dev/null)" != "$wanted" ]; then
        make_python "$@"
        # Whatever else it has, it also serves who asks for nothing else.
        echo "$wanted" | tee "$made_for" >"$made_for$*"
    fi
    PATH=$PWD/.venv/bin:$PATH
}

make_python() {
    say "preparing a Python environment in $PWD/.venv"
    need_packages $(python_packages) || exit 1
    # pip does not start where the environment was moved, or its Python has gone.
    .venv/bin/pip --version >/dev/null 2>&1 || python3 -m venv --clear .venv
    # Dependency groups came with pip 25.1.
    .venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
    .venv/bin/python -m pip install --quiet --editable . "$@"
}

# need_npm PACKAGE@VERSION: put a package of npm's into the Python environment's node_modules, or
# say that it is missing.
need_npm() {
    [ ! -d ".venv/node_modules/${1%@*}" ] || return 0
    is_there npm && npm install --silent --no-fund --no-audit --prefix .venv "$1" </dev/null >&2 ||
        say "missing: ${1%@*} (npm install --prefix .venv $1)"
}
