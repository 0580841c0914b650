# shellcheck shell=bash disable=SC2154  # $logs is the caller's
# What tests/run and tests/vm/run share. Sourced by bash, from the top of the source tree.

section() { printf '\n== %s\n' "$*"; }

# Notes something that this machine or user cannot do, for the summary.
cannot() {
    printf 'cannot run: %s: %s\n' "$1" "$2" >&2
    printf '%s\t%s\n' "$1" "$2" >>"$logs/cannot"
}

target_dir() {
    cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

# install_packages NAME ...: fails, with the names in $missing_packages, if some are missing after it.
install_packages() {
    command -v dpkg-query >/dev/null || { missing_packages=("$@"); return 1; }
    look_for_packages "$@"
    [[ ${#missing_packages[@]} -gt 0 ]] || return 0
    [[ $(id -u) == 0 ]] || return 1
    echo "installing: ${missing_packages[*]}"
    # An apt that works on another's behalf may hold the lock for a while.
    apt-get -qq -o DPkg::Lock::Timeout=300 update >"$logs/apt.log" 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends \
        install "${missing_packages[@]}" >>"$logs/apt.log" 2>&1 || tail -n 5 "$logs/apt.log" >&2
    look_for_packages "$@"
    [[ ${#missing_packages[@]} == 0 ]]
}

look_for_packages() {
    local package
    missing_packages=()
    for package; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing_packages+=("$package")
    done
}

# Compiles the tests, with every feature; prints "test|example, name, file" of every one. The unit tests are called "unit".
cargo_executables() {
    { cargo test --no-run --all-features --lib --tests --message-format=json && cargo build --all-features --examples --message-format=json; } |
        sed -n '/"reason":"compiler-artifact"/{
            s/.*"target":{"kind":\["\([a-z]*\)"\].*"name":"\([^"]*\)","src_path".*"test":\(true\|false\)}.*"executable":"\([^"]*\)".*/\3\t\1\t\2\t\4/p
        }' |
        awk -F'\t' -v OFS='\t' '
            $1 == "true" && $2 == "lib" { print "test", "unit", $4 }
            $1 == "true" && $2 == "test" { print "test", $3, $4 }
            $1 == "false" && $2 == "example" { print "example", $3, $4 }'
}

# debian_archive CACHE: makes, once, a small Debian root filesystem and prints the name of its tar archive.
debian_archive() {
    # The number goes up when the list changes.
    made_once "$1" debian 3.tar --include=apparmor,dbus-user-session,iproute2,kmod,libpam-systemd,procps,python3-minimal,strace,systemd,uidmap
}

# programs_archive CACHE: the same with servers, a compiler, and a mirror to install packages from, for tests/programs.
programs_archive() {
    made_once "$1" programs 1.tar.zst --include=libc6-dev,make,nginx-light,postgresql,procps,python3-venv,redis-server,tcc \
        --aptopt='Acquire::Languages "none"' --customize-hook=tests/programs/furnish
}

# made_once CACHE NAME NUMBER.EXTENSION OPTION ...: calls mmdebstrap for a root filesystem of this machine's release,
# so that programs compiled here run in it. It is made in memory, as dpkg waits for the disk at each step.
made_once() {
    local cache=$1 name=$2 number=$3 release archive
    shift 3
    release=$(. /etc/os-release && echo "$VERSION_CODENAME") || return
    archive=$cache/$name-$release-$number
    if [[ ! -e $archive ]]; then
        TMPDIR=/dev/shm mmdebstrap --variant=minbase "$@" "$release" "$cache/part-${archive##*/}" \
            >"$logs/mmdebstrap-$name.log" 2>&1 </dev/null || return
        mv "$cache/part-${archive##*/}" "$archive"
    fi
    echo "$archive"
}

# unprivileged_user NAME STAGE: makes the user if need be, and prints the name of a program that runs
# its arguments as that user with a clean environment.
unprivileged_user() {
    local user=$1 stage=$2 file
    id "$user" >/dev/null 2>&1 || useradd --no-create-home --home-dir /nonexistent --shell /bin/sh "$user" >&2 || return
    for file in subuid subgid; do
        grep -q "^$user:" "/etc/$file" ||
            usermod --add-"${file}"s 1000000000-1000065535 "$user" >&2 || return
    done
    mkdir -p "$stage/home" "$stage/home/tmp" "$stage/home/runtime"
    chmod 700 "$stage/home/runtime"
    chown -R "$user:" "$stage/home"
    # rustdoc keeps the programs of documentation tests where only root can reach: run a copy of those.
    cat >"$stage/as-user" <<END
#!/bin/bash
set -euo pipefail
program=\$1
shift
if [[ \$program == */rustdoctest* ]]; then
    copy=\$(mktemp "$stage/home/tmp/doctest.XXXXXX")
    trap 'rm -f "\$copy"' EXIT
    cp "\$program" "\$copy"
    chmod 755 "\$copy"
    program=\$copy
    cd "$stage/tree"
fi
kept=()
for name in CI CORACLE_SKIPS CORACLE_TEST_ROOTFS CORACLE_TEST_PROGRAMS CORACLE_TEST_ENOSYS CARGO_MANIFEST_DIR RUST_BACKTRACE; do
    [[ ! -v \$name ]] || kept+=("\$name=\${!name}")
done
setpriv --reuid="$user" --regid="$user" --init-groups --inh-caps=-all env -i "\${kept[@]}" \
    PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME="$stage/home" USER="$user" LOGNAME="$user" \
    TMPDIR="$stage/home/tmp" XDG_RUNTIME_DIR="$stage/home/runtime" "\$program" "\$@"
END
    chmod 755 "$stage/as-user"
    echo "$stage/as-user"
}

# Prints what a round has left on this machine, as far as it can be told from what others do here.
left_behind() {
    local process link
    {
        grep -F " $stage/" /proc/self/mountinfo | sed 's/^/mount: /'
        find /sys/fs/cgroup -type d -name '*coracle*' 2>/dev/null | sed 's/^/cgroup: /'
        find "$stage/tmp" "$stage/home/tmp" "$stage/tree/target" -mindepth 1 -maxdepth 1 -printf 'file: %p\n'
        for process in /proc/[0-9]*; do
            [[ $process != "/proc/$BASHPID" ]] || continue
            for link in exe cwd root; do
                if [[ $(readlink "$process/$link") == "$stage"/* ]]; then
                    echo "process: ${process#/proc/} $(tr '\0' ' ' <"$process/cmdline")"
                    break
                fi
            done
        done
    } 2>/dev/null | sort
}

# nothing_left ROUND BEFORE: waits for what was not there before to go away, and fails the round if some stays.
nothing_left() {
    local left try
    left=$(left_behind | comm -13 <(echo "$2") -)
    # Others' tests make and remove groups all the time: only what stays is left behind.
    for ((try = 0; try < 20; try++)); do
        [[ -n $left ]] || return 0
        sleep 0.5
        left=$(left_behind | comm -12 <(echo "$left") -)
    done
    printf '%s\t%s\t%s\t%s\n' "$1" "(the round)" "left behind: ${left//$'\n'/; }" FAILED >>"$logs/results"
    printf '  FAILED, left behind:\n%s\n' "$left"
}

# judge ROUND SUITE STATUS: reads the log of a suite, adds its tests to the results, prints a line.
judge() {
    local round=$1 suite=$2 status=$3 log=$logs/$1.$2.log read counts passed failed ignored skipped
    # A failed test may show the output of another run of itself.
    read=$(sed -n 's/^.*test \(.*\) \.\.\. \(ok\|FAILED\|ignored\).*$/\1\t\2/p' "$log" | sort -u |
        awk -v OFS='\t' -F'\t' -v round="$round" -v suite="$suite" '{ print round, suite, $1, $2 }' | tee -a "$logs/results" | wc -l)
    counts=$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored;.*/\1 \2 \3/p' "$log" |
        # rustdoc closes with a line for each program it makes of the examples.
        if [[ $suite == doc ]]; then awk '{ p += $1; f += $2; i += $3 } END { if (NR) print p, f, i }'; else tail -n1; fi)
    skipped=$(awk -F'\t' -v suite="$suite" '$1 == suite' "$logs/$round.skips" 2>/dev/null | cut -f2 | sort -u | wc -l)
    read -r passed failed ignored <<<"${counts:-0 0 0}"
    if [[ $status != 0 && $failed == 0 ]] || [[ -z $counts ]]; then
        # Ended early: by a signal, by the time limit, or it did not compile.
        printf '%s\t%s\t%s\t%s\n' "$round" "$suite" "(the suite: status $status)" FAILED >>"$logs/results"
        failed=1
    fi
    # Suites without a test that the filter lets through are left out.
    [[ -z ${filter:-} || $passed$failed$ignored != 000 ]] || return 0
    # What else writes to a suite's output can tear a line of it apart.
    if [[ $suite != doc && $read -lt $((passed + failed + ignored)) ]]; then
        echo "  only $read results of $((passed + failed + ignored)) could be read:"
        grep -v '^test .* \.\.\. [a-zA-Z]*$' "$log" | head -n 40
    fi
    printf '  %-28s %4d passed' "$suite" $((passed - skipped))
    [[ $skipped == 0 ]] || printf ', %d not here' "$skipped"
    [[ $ignored == 0 ]] || printf ', %d ignored' "$ignored"
    [[ $failed == 0 ]] || printf ', %d FAILED (%s)' "$failed" "$log"
    echo
    [[ $failed == 0 ]] || sed -n '/^failures:$/,$p' "$log" | head -n 80 | grep . || tail -n 30 "$log"
}

# Prints what could run nowhere, and why, and the closing line. Fails if a test failed.
summary() {
    local passed failed skipped strict=''
    [[ ${CI:-} != true ]] || strict=yes
    for file in "$logs"/*.skips; do
        awk -v OFS='\t' -v round="$(basename "$file" .skips)" '{ print round, $0 }' "$file"
    done >"$logs/skips"
    # A test has run if it passed in a round in which it was not skipped; where it never did, tell every round's reason.
    awk -F'\t' -v OFS='\t' '
        FILENAME ~ /skips$/ {
            key = $2 FS $3
            if (($1 FS key) in skipped) next
            skipped[$1 FS key]
            if (key in why) why[key] = why[key] "; " $1 ": " $5
            else why[key] = $4 OFS $1 ": " $5
            next
        }
        $4 == "ignored" { if (!(($2 FS $3) in why)) why[$2 FS $3] = "ignored" OFS "#[ignore]"; next }
        !(($1 FS $2 FS $3) in skipped) { ran[$2 FS $3] }
        END { for (key in why) if (!(key in ran)) print why[key], key }
    ' "$logs/skips" "$logs/results" | sort >"$logs/nowhere"
    grep -v -e '^#' -e '^$' tests/impossible.txt | sed 's/: /\t/' >"$logs/impossible" || true
    failed=$(awk -F'\t' '$4 == "FAILED"' "$logs/results" | wc -l)
    passed=$(awk -F'\t' '
        FILENAME ~ /skips$/ { skipped[$1 FS $2 FS $3]; next }
        $4 == "ok" && !(($1 FS $2 FS $3) in skipped)
    ' "$logs/skips" "$logs/results" | wc -l)
    skipped=$(cat "$logs/nowhere" "$logs/cannot" | wc -l)

    section "Summary"
    if [[ $skipped != 0 ]]; then
        echo "Could not run:"
        awk -F'\t' '{ print "  " $1 ": " $2 }' "$logs/cannot"
        awk -F'\t' '{ print "  " $3 "::" $4 ": needs " $1 ": " $2 }' "$logs/nowhere"
    fi
    if [[ $failed != 0 ]]; then
        echo "Failed:"
        awk -F'\t' '$4 == "FAILED" { print "  " $1 ": " $2 "::" $3 }' "$logs/results"
    fi
    if [[ -n $strict ]]; then
        # On CI what could not run is a failure, unless no machine could run it.
        local unexcused
        unexcused=$(cat "$logs/cannot" "$logs/nowhere" |
            awk -F'\t' 'FILENAME == ARGV[1] { excused[$1]; next } !($1 in excused)' "$logs/impossible" - | wc -l)
        skipped=$((skipped - unexcused))
        failed=$((failed + unexcused))
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [[ $failed == 0 ]]
}
