# shellcheck shell=sh
# Sourced by serve and test: makes a virtual environment with memcachepy built into it.
#
#   set_up <extras>     "" to run a node, "test" for pytest, "test,dev" for the checks of .ci/run
#
# PYTHON chooses the interpreter, VENV the folder. The folder notes a digest over the C sources,
# pyproject.toml and the interpreter, so that a later run with nothing changed does nothing and
# needs no network; a lock lets several runs share one checkout.

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# The command that installs a package, by the names of Debian, Fedora and Alpine.
install_hint() {
    if command -v apt-get >/dev/null 2>&1; then
        printf 'apt-get install %s' "$1"
    elif command -v dnf >/dev/null 2>&1; then
        printf 'dnf install %s' "$2"
    elif command -v apk >/dev/null 2>&1; then
        printf 'apk add %s' "$3"
    else
        printf 'package %s (Debian), %s (Fedora) or %s (Alpine)' "$1" "$2" "$3"
    fi
}

check_system() {
    [ "$(uname -s)" = Linux ] || fail "memcachepy runs on Linux only; this is $(uname -s)"
    case $(uname -m) in
        x86_64 | aarch64 | arm64) ;;
        *) fail "memcachepy runs on x86-64 and arm64; this machine is $(uname -m)" ;;
    esac
    command -v flock >/dev/null 2>&1 ||
        fail "flock is missing; install it: $(install_hint util-linux util-linux util-linux)"
}

# Prints "<version> <what is missing> <path>" of an interpreter, or nothing if it is too old.
describe_python() {
    "$1" -c '
import importlib.util, os, sys, sysconfig
if sys.version_info >= (3, 11) and sys.implementation.name == "cpython":
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    has_venv = importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")
    missing = "venv" if not has_venv else "Python.h" if not os.path.exists(header) else "nothing"
    print("%d.%d.%d" % sys.version_info[:3], missing, os.path.realpath(sys.executable))
' 2>/dev/null
}

# Sets python, python_version and python_path: the newest interpreter that has all it needs.
find_python() {
    python=
    for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
        found=$(describe_python "$candidate") && [ -n "$found" ] || continue
        case $found in *' nothing '*) complete=yes ;; *) complete=no ;; esac
        if [ -z "$python" ] || [ $complete = yes ]; then
            python=$candidate
            python_version=${found%% *}
            found=${found#* }
            python_missing=${found%% *}
            python_path=${found#* }
        fi
        [ $complete = no ] || break
    done
    [ -n "$python" ] || fail "$(
        if [ -n "${PYTHON:-}" ]; then
            printf 'PYTHON=%s is not a CPython of at least 3.11' "$PYTHON"
        else
            printf 'no Python of at least 3.11 was found; install it: %s' \
                "$(install_hint python3 python3 python3)"
        fi
    ); or name one: PYTHON=/path/to/python3 $0"
    minor=${python_version%.*}
    case $python_missing in
        venv) fail "$python_path cannot make virtual environments; install the module venv: $(
            install_hint "python$minor-venv" python3 python3
        )" ;;
        Python.h) fail "Python.h of $python_path is missing; install it: $(
            install_hint "python$minor-dev" "python$minor-devel" python3-dev
        )" ;;
    esac
}

check_compiler() {
    compiler=${CC:-}
    for candidate in ${CC:-cc gcc clang}; do
        command -v "${candidate%% *}" >/dev/null 2>&1 && compiler=$candidate && break
    done
    printf '#include <pthread.h>\nint main(void) { return 0; }\n' |
        ${compiler:-cc} -x c - -o /dev/null 2>/dev/null ||
        fail "a C compiler that works is missing; install one: $(
            install_hint build-essential gcc build-base
        )"
    export CC="$compiler"
}

# Everything that the built extension depends on.
digest() {
    {
        echo "$place"
        cd "$top"
        find pyproject.toml memcachepy/core -name '*.toml' -o -name '*.[ch]' | LC_ALL=C sort |
            xargs sha256sum
    } | sha256sum | cut -d ' ' -f 1
}

# Build and install. Quiet unless it fails; then say whether the network was the reason.
install_into() {
    check_compiler
    printf '%s: building into %s with Python %s (a minute the first time)\n' \
        "${0##*/}" "$venv" "$python_version" >&2
    if [ ! -x "$venv/bin/python" ] || [ "$(note place)" != "$place" ]; then
        [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] ||
            fail "$venv is in the way: it is not a virtual environment"
        "$python" -m venv --clear "$venv" || fail "making the virtual environment $venv failed"
        echo "$place" >"$venv/place"
    fi
    rm -f "$venv/digest"
    requires=$("$venv/bin/python" -c 'import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["build-system"]["requires"])' "$top/pyproject.toml")
    # No isolation: with the build tools in the environment, a rebuild needs no network.
    # shellcheck disable=SC2086  # A list of words.
    if pip_install $requires >"$venv/install.log" 2>&1 &&
        pip_install --no-build-isolation --editable "$top${1:+[$1]}" >>"$venv/install.log" 2>&1
    then
        echo "$1" >"$venv/extras"
        echo "$wanted" >"$venv/digest"
        return
    fi
    tail -n 20 "$venv/install.log" >&2
    if grep -qE 'ConnectionError|resolution|No matching dist|ProxyError|timed out' \
        "$venv/install.log"; then
        fail "the package index cannot be reached; a first run needs it (or PIP_INDEX_URL)"
    fi
    fail "building failed; everything it said is in $venv/install.log"
}

pip_install() {
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"
}

# What an earlier run noted in the environment: its place, its extras, the digest it was built from.
note() {
    cat "$venv/$1" 2>/dev/null || true
}

# What is installed only grows: a rebuild for serve keeps what test needs.
set_up() {
    check_system
    find_python
    venv=${VENV:-$top/.venv}
    mkdir -p "$top/.cache"
    exec 9>"$top/.cache/setup.lock"
    flock 9
    place="$python_version $python_path $top"
    extras=$1
    had=$(note extras)
    [ ${#had} -le ${#extras} ] || extras=$had
    wanted=$(digest)
    if [ "$(note digest)" != "$wanted" ] || [ "$had" != "$extras" ]; then
        install_into "$extras"
    fi
    exec 9>&-
    unset PYTHON VENV
}

set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
