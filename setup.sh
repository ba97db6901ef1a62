#!/usr/bin/env bash
# Fetches the published data and checkpoints. `./setup.sh --help` prints the options, `--list` names, sizes and addresses.
set -euo pipefail
set -m            # every child leads a process group, so that a signal ends all of it
shopt -s nullglob
export LC_ALL=C   # tar then lists each member on one line of plain bytes

BOX=https://berkeley.box.com/shared/static
# name           kind   address                                    becomes, in FOLDER   published size
ITEMS="
chairs           data   $BOX/2mphopu9eqld2ve160dzeluon57uwvhs.gz   Chair                about 46 GB with tables
tables           data   $BOX/mmz6odslcw3my6aeo8o7d2xtxpl0s1qw.gz   Table                about 46 GB with chairs
chairs_models    models $BOX/airmfckrkc9sh5xe26m0hwjsu9zw0jbg.gz   models/Chair         about 12 GB with tables_models
tables_models    models $BOX/kb64gjzmbdb8dwfyub7rd0z0i2fyok4d.gz   models/Table         about 12 GB with chairs_models
linear_head      models $BOX/k99rr72u8if9ggkvq0j66loospyhcg3j      models/linear_head/epoch_2500_iter_005000.pth
chairs_50_views  models $BOX/gmhbwowj449hxho27gbzsnfca2itku4s      models/chairs_50_views/epoch_0026_iter_080000.pth
"
UNPACKED=2                             # estimated size of an unpacked archive per size of the archive
RETRIES=${SRN_RETRIES:-20}             # attempts in a row that may each bring less than 1 MiB
DELAY=${SRN_RETRY_SECONDS:-15}         # pause between two attempts
STALL=${SRN_STALL_SECONDS:-60}         # a connection below 1 kB/s for this long counts as broken

usage() {
    cat <<END
usage: ./setup.sh FOLDER [--models] [--only NAME,NAME] [--list] [--keep] [--no_space_check]

Fetches the published chairs and tables into FOLDER/Chair and FOLDER/Table. After an interruption, rerun the command to
resume; what is there already is skipped. Downloads stay in FOLDER/.downloads until they are verified and unpacked.

  --models          also fetch the published checkpoints, into FOLDER/models
  --only NAMES      fetch only these, comma-separated:$(names)
  --list            print names, sizes, addresses and what is there; fetch nothing
  --keep            keep the downloaded archives in FOLDER/.downloads
  --no_space_check  continue although the disk seems too small (until an archive is here, $UNPACKED times its size is assumed)

Environment: SRN_<NAME>_URL replaces an address, such as SRN_CHAIRS_URL or SRN_LINEAR_HEAD_URL. SRN_RETRIES ($RETRIES) is the
number of attempts in a row that may bring nothing, SRN_RETRY_SECONDS ($DELAY) the pause between them, SRN_STALL_SECONDS
($STALL) the time after which a silent connection is given up. SRN_FREE_BYTES replaces the free disk that df reports.
Exit code: 0; 2 with one sentence about the error; 130 or 143 when interrupted.
END
}

say() { echo "$*"; }
die() { echo "setup.sh: $*" >&2; exit 2; }
names() { local name; while read -r name _; do [ -z "$name" ] || echo -n " $name"; done <<< "$ITEMS"; }
bytes() { if [ -f "$1" ]; then wc -c < "$1"; else echo 0; fi; }
human() {
    if [ "$1" -lt 1000000 ]; then echo "$1 bytes"
    elif [ "$1" -lt 1000000000 ]; then echo "$(($1 / 1000000)).$(($1 / 100000 % 10)) MB"
    else echo "$(($1 / 1000000000)).$(($1 / 100000000 % 10)) GB"; fi
}
there() {  # FILE-OR-FOLDER: whether the file exists, or the folder with something in it
    local inside=("$1"/*)
    [ -f "$1" ] || [ "${#inside[@]}" -gt 0 ]
}
run() {  # COMMAND...: returns its exit code. Bash handles signals while it waits, but not while a command is in the foreground
    local code=0
    "$@" < /dev/null &
    child=$!
    wait "$child" || code=$?
    child=
    return "$code"
}
leave() {
    local code=$?
    [ -z "$child" ] || { kill -- "-$child" || true; wait "$child" || true; } 2> /dev/null
    [ -z "$unpacking" ] || rm -rf "$unpacking"
    rm -rf "$scratch"
    [ "$code" != 1 ] || exit 2  # a command failed and printed why
}

# ---- the server

trouble() {  # EXIT-CODE of curl, in words
    case $1 in
        6 | 7) echo "could not be reached" ;;
        18 | 52 | 55 | 56 | 92) echo "broke off" ;;
        28) echo "fell silent" ;;
        *) echo "could not be fetched (curl exit code $1)" ;;
    esac
}
read_headers() {  # sets, from the last response: status (0: none), length of the whole file ('': unknown), etag, type
    local line total=
    status=0 length='' etag='' type=''
    [ -f "$scratch/headers" ] || return 0
    while IFS= read -r line; do
        line=${line%$'\r'}
        case ${line,,} in
            http/*) status=${line#* } status=${status%% *} length='' etag='' type='' total='' ;;
            content-length:*) length=${line##*[: ]} ;;
            content-range:*) total=${line##*/} ;;
            content-type:*) type=${line,,} ;;
            etag:*) etag=${line#*: } ;;
        esac
    done < "$scratch/headers"
    length=${total:-$length}
    if [[ $length =~ ^[0-9]{1,18}$ ]] && ((10#$length > 0)); then length=$((10#$length)); else length=''; fi
}
ask() {  # ADDRESS: reads its headers without fetching it; without a response, returns curl's exit code and sets why
    local code=0
    rm -f "$scratch/headers"
    run curl "${CURL[@]}" -s --max-time 30 --head -o /dev/null --url "$1" || code=$?
    read_headers
    if [[ $status != [02]* ]]; then  # some servers support only GET: request the first byte
        code=0
        run curl "${CURL[@]}" -s --max-time 30 --range 0-0 --max-filesize 1 -o /dev/null --url "$1" || code=$?
        [ "$code" != 63 ] || code=0  # no ranges either: curl stopped when it saw the length
        read_headers
    fi
    why="$1 $(trouble "$code")"
    return "$code"
}
refuse_page() {  # NAME ADDRESS
    die "$1: $2 sent a web page, not a file; open the address in a browser, or set another one in SRN_${1^^}_URL"
}

attempt() {  # NAME ADDRESS PART: returns 0 if PART is the whole file; otherwise sets why
    local name=$1 address=$2 part=$3 code=0 fetch promised
    ask "$address" || case $? in 1 | 3) die "$name: $address is not an http or https address" ;; *) return 1 ;; esac
    why="$address answers with status $status"
    case $status in
        2*) ;;
        408 | 425 | 429 | 5*) return 1 ;;
        *) die "$name: $why; check the address, or set another one in SRN_${name^^}_URL" ;;
    esac
    [[ $type != *text/html* ]] || refuse_page "$name" "$address"  # before the earlier part is deleted
    promised=$length
    if [ "$(cat "$part.of" 2> /dev/null)" != "$length $etag" ] || [ "$(bytes "$part")" -gt "${length:-0}" ]; then
        [ ! -s "$part" ] || say "$name: the file at $address has changed or has no length; starting anew"
        rm -f "$part"
        echo "$length $etag" > "$part.of"
    fi
    [ -z "$length" ] || [ "$(bytes "$part")" != "$length" ] || return 0
    say "$name: fetching ${length:+$(human "$length") }from $address, $(human "$(bytes "$part")") are here"
    fetch=(curl "${CURL[@]}" "${METER[@]}" --fail --speed-limit 1000 --speed-time "$STALL" -o "$part" --url "$address")
    run "${fetch[@]}" --continue-at - || code=$?
    read_headers
    case $code/$status/$type in
        33/2*/*text/html*) refuse_page "$name" "$address" ;;
        0/2*/*text/html*) rm -f "$part" && refuse_page "$name" "$address" ;;
    esac
    if [ "$code" = 33 ]; then
        say "$name: the server cannot resume; starting anew"
        code=0
        run "${fetch[@]}" || code=$?
    fi
    case $code in
        0) why="$address promised $promised bytes and sent $(bytes "$part")" ;;
        22) why="$address answers with status $status" ;;
        23) die "$name: $part could not be written, the disk may be full; make room and run again to resume" ;;
        *) why="$address $(trouble "$code")" ;;
    esac
    [ "$code" = 0 ] && [ "$(bytes "$part")" = "${promised:-$(bytes "$part")}" ]
}
# Not curl's --retry: with --continue-at it deletes what this command has fetched and starts again at the old offset (seen
# with curl 7.88), so an archive of 23 GB would not arrive over a connection that breaks every few GB.
download() {  # NAME ADDRESS PART
    local failures=0 best have
    best=$(bytes "$3")
    until attempt "$@"; do
        have=$(bytes "$3")
        if ((have >= best + 1048576)); then failures=0 best=$have; fi
        failures=$((failures + 1))
        [ "$failures" -lt "$RETRIES" ] || die "$1: $why; gave up after $failures attempts; run again to resume"
        say "$1: $why; at $(human "$have"), trying again in $DELAY s"
        run sleep "$DELAY"
    done
}

# ---- the disk

need_space() {  # BYTES WHAT-FOR
    local free=${SRN_FREE_BYTES:-} line
    [ -z "$no_space_check" ] || return 0
    if [ -z "$free" ]; then
        line=$(df -Pk "$folder" | tail -n 1)
        [[ $line =~ ([0-9]+)\ +[0-9]+%\  ]] || die "$folder: df does not report the free disk; --no_space_check skips the check"
        free=$((BASH_REMATCH[1] * 1024))
    fi
    [ "$free" -ge "$1" ] || die "$folder: $2 needs $(human "$1") of disk, $(human "$free") are free; make room," \
        "choose another folder, fetch less with --only, or skip the check with --no_space_check"
}
need_space_for_all() {  # before anything is fetched. Without --keep a download is deleted before the next one starts
    local name address target rest stays=0 largest=0 all=0
    while read -r name _ address target _; do
        ! there "$folder/$target" || continue
        ask "$address" && [[ $status = 2* && -n $length ]] ||
            { say "$name: $address reports no size, so the disk is not checked for it yet"; continue; }
        rest=$(bytes "$work/$name.part")
        rest=$((rest < length ? length - rest : 0))
        if [[ $target == *.pth ]]; then
            stays=$((stays + rest))
        else
            stays=$((stays + length * UNPACKED)) all=$((all + rest)) largest=$((rest > largest ? rest : largest))
        fi
    done <<< "$chosen"
    [ -z "$keep" ] || largest=$all
    need_space $((stays + largest)) "fetching and unpacking, by estimate,"
}
lock() {  # one run at a time per folder. Children hold the lock too: it outlasts a killed run as long as its curl runs
    { exec 9>> "$work/lock"; } 2> /dev/null || die "$work cannot be written to; choose another folder or change its permissions"
    flock -n -E 75 9 2> /dev/null || case $? in
        75) die "$folder: another setup.sh runs there; wait for it, or end it and its curl" ;;
        *) say "$folder: this disk has no locks; make sure that no other setup.sh runs there" ;;
    esac
}

# ---- downloaded files

refuse_download() { rm -f "$2" "$2.of"; die "$1: $3; it was deleted; run again to fetch it anew"; }  # NAME PART REASON
problem() { grep -m 1 . "$scratch/problem" || echo "no reason was given"; }
hex() { od -An -tx1 | tr -d ' \n'; }
check_kind() {  # NAME ADDRESS PART FIRST-TWO-BYTES EXPECTED
    local start
    start=$(head -c 512 "$3" | tr -d '\0')
    case ${start,,} in *'<html'* | *'<!doctype'*) rm -f "$3" "$3.of" && refuse_page "$1" "$2" ;; esac
    [[ $(head -c 2 "$3" | hex) =~ ^($4)$ ]] || refuse_download "$1" "$3" "what $2 sent is not $5"
}
check_checkpoint() {  # NAME ADDRESS PART
    check_kind "$@" '504b|80..' "a checkpoint of PyTorch (a zip file or a pickle)"
    # A zip file ends with a record of 22 bytes; a pickle has no mark at its end.
    [[ $(head -c 2 "$3" | hex) != 504b || $(tail -c 22 "$3" | head -c 4 | hex) == 504b0506 ]] ||
        refuse_download "$1" "$3" "the checkpoint that $2 sent is cut short"
}
survey() {  # ARCHIVE: reads it to its end; prints its unpacked size, and the first member that must not be unpacked
    gzip -dc "$1" | { tar -tvP --numeric-owner -f - && cat > /dev/null; } | {
        local rights size name total=0 bad=
        while read -r rights _ size _ _ name; do
            case $rights in
                -* | d*) total=$((total + (size / 4096 + 1) * 4096)) ;;
                [lh]*)
                    case $name in *' -> /'* | *' link to /'*) bad=${bad:-$name} ;; esac
                    name=${name// -> //} name=${name// link to //} ;;
                *) bad=${bad:-$name} ;;
            esac
            case /$name/ in //* | */../*) bad=${bad:-$name} ;; esac
        done
        echo "$total $bad"
    }
}
unpack() {  # NAME ADDRESS PART FINAL
    local name=$1 part=$3 final=$4 size bad all ready split holder='' several='' top
    check_kind "$name" "$2" "$part" 1f8b "a gzip archive"
    say "$name: verifying"
    run survey "$part" > "$scratch/survey" 2> "$scratch/problem" ||
        refuse_download "$name" "$part" "the archive is damaged or cut short ($(problem))"
    read -r size bad < "$scratch/survey"
    [ -z "$bad" ] || die "$name: $part has a member that is a device or leads out of its folder ($bad), so it is not unpacked"
    need_space "$size" "unpacking $name"
    say "$name: unpacking $(human "$size")"
    unpacking=$work/$name.unpacked
    rm -rf "$unpacking"
    mkdir -p "$unpacking/all" "$(dirname "$final")"
    all=$(readlink -f "$unpacking/all")
    run tar -xzf "$part" -C "$all" --no-same-owner --no-same-permissions 2> "$scratch/problem" ||
        die "$name: $part could not be unpacked ($(problem)); repair that and run again"

    # The final folder is the one that holds the splits, else the only one at the top, else the whole archive.
    for split in "$all"/{,*/,*/*/,*/*/*/}*.train/; do
        split=$(readlink -f "${split%/*/}")
        [ "${holder:=$split}" = "$split" ] || several=1
    done
    top=("$all"/* "$all"/.[!.]*)
    [ "${#top[@]}" -gt 0 ] || refuse_download "$name" "$part" "the archive is empty"
    if [ -z "$holder" ] && [ "${#top[@]}" = 1 ] && [ -d "${top[0]}" ]; then holder=${top[0]}; fi
    ready=$all
    if [ -n "$holder" ] && [ -z "$several" ] && [ "$holder" != "$all" ]; then
        ready=$unpacking/ready
        mv "$holder" "$ready"
        [ -z "$(find "$all" ! -type d -print -quit)" ] || mv "$all" "$ready/rest_of_the_archive"
    fi
    mv -T "$ready" "$final"
    rm -rf "$unpacking"
    unpacking=
    top=("$final"/*)
    say "$name: $final has ${#top[@]} entries:$(top=("${top[@]##*/}"); printf ' %q' "${top[@]:0:8}")"
    [[ $final == */models/* || -d $final/${final##*/}.train ]] ||
        say "$name: no folder ${final##*/}.train was found, so nothing was renamed; check $final before training on it"
}

# ---- the program

select_items() {
    local name kind address target about other
    known() { [[ "$(names) " == *" $1 "* ]] || die "$2 names no download; expected one of:$(names)"; }
    for name in ${only//,/ }; do known "$name" "--only $name"; done
    for other in "${!SRN_@}"; do
        if [[ $other =~ ^SRN_(.*)_URL$ ]]; then known "${BASH_REMATCH[1],,}" "$other"; fi
    done
    while read -r name kind address target about; do
        [ -n "$name" ] || continue
        if [ -n "$only" ]; then
            [[ ,$only, == *,$name,* ]] || continue
        elif [ "$kind" = models ] && [ -z "$models" ]; then
            continue
        fi
        other=SRN_${name^^}_URL
        address=${!other:-$address}
        [[ $address != *[[:space:]]* ]] || die "$other: an address has no spaces, found '$address'"
        chosen+="${chosen:+$'\n'}$name $kind $address $target $about"
    done <<< "$ITEMS"
    [ -n "$chosen" ] || die "--only $only names no download; expected one of:$(names)"
}
list() {
    local name address target about size state
    row() { printf '%-15s  %-12s  %-16s  %-51s  %s\n' "$@"; }
    row name size state "in $folder" address
    while read -r name _ address target about; do
        state="to fetch"
        [ ! -s "$work/$name.part" ] || state="$(human "$(bytes "$work/$name.part")") fetched"
        ! there "$folder/$target" || state="already there"
        size="size unknown"
        if ! ask "$address"; then about+=" (no answer)"
        elif [[ $status != 2* ]]; then about+=" (status $status)"
        elif [[ $type == *text/html* ]]; then about+=" (a web page answers)"
        elif [ -n "$length" ]; then size=$(human "$length"); fi
        row "$name" "$size" "$state" "$target" "$address${about:+  $about}"
    done <<< "$chosen"
    [ -n "$models$only" ] || say "--models lists the published checkpoints too."
    say "The cars and chairs of SRN 2019 lie in Google Drive folders, which SRN's README links to; fetch them by hand."
}

folder='' models='' only='' listing='' keep='' no_space_check='' chosen='' child='' unpacking=''
while [ $# -gt 0 ]; do
    case $1 in
        --models) models=1 ;;
        --only) [ $# -gt 1 ] || die "--only needs comma-separated names:$(names)"; only=$2; shift ;;
        --list) listing=1 ;;
        --keep) keep=1 ;;
        --no_space_check) no_space_check=1 ;;
        -h | --help) usage; exit ;;
        -*) die "$1 is not an option; ./setup.sh --help lists them" ;;
        *) [ -z "$folder" ] || die "expected one FOLDER, found '$folder' and '$1'"; folder=$1 ;;
    esac
    shift
done
for name in SRN_RETRIES SRN_RETRY_SECONDS SRN_STALL_SECONDS SRN_FREE_BYTES; do
    [[ ${!name:-0} =~ ^[0-9]{1,18}$ ]] || die "$name must be a whole number, found '${!name}'"
done
for name in curl tar gzip flock; do
    command -v "$name" > /dev/null || die "$name is missing; install it"
done
select_items
scratch=$(mktemp -d) || die "mktemp failed; set TMPDIR to a folder that can be written to"
trap leave EXIT
trap 'say "interrupted; run again to resume"; exit 130' INT
trap 'say "interrupted; run again to resume"; exit 143' TERM HUP
CURL=(--location --globoff --connect-timeout 10 --proto "=http,https" --dump-header "$scratch/headers")
if [ -t 2 ]; then METER=(--progress-bar); else METER=(--silent); fi
if [ -n "$listing" ]; then
    folder=${folder:-FOLDER} work=${folder:-FOLDER}/.downloads
    list
    exit
fi
[ -n "$folder" ] || die "expected the FOLDER for the data, as in: ./setup.sh data/published"
work=$folder/.downloads
mkdir -p "$work" 2> /dev/null || die "$folder: cannot be made or written to; choose another folder"
lock
need_space_for_all
while read -r name _ address target _; do
    part=$work/$name.part
    if there "$folder/$target"; then
        say "$name: $folder/$target is there already"
        continue
    fi
    download "$name" "$address" "$part"
    if [[ $target == *.pth ]]; then
        check_checkpoint "$name" "$address" "$part"
        mkdir -p "$(dirname "$folder/$target")"
        mv "$part" "$folder/$target"
        say "$name: $folder/$target"
    else
        unpack "$name" "$address" "$part" "$folder/$target"
        [ -z "$keep" ] || continue
    fi
    rm -f "$part" "$part.of"
done <<< "$chosen"
