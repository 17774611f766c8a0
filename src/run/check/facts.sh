#!/bin/sh
# Prints what `synthdisk run --check running` asks for: one fact per line, each after the word $1$2,
# which no line of the terminal's echo begins with. $3: how many seconds the boot may still take.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mark=$1$2
limit=$3
fact() { printf '%s %s\n' "$mark" "$*"; }

# Nothing of the kernel's or of systemd's may end up in the middle of a line.
[ ! -w /proc/sys/kernel/printk ] || echo 1 >/proc/sys/kernel/printk
fact begin
fact tty "$(tty 2>/dev/null)"
fact kernel "$(uname -r)"

if [ -d /run/systemd/system ]; then
    kill -s RTMIN+21 1 2>/dev/null
    n=0
    while :; do
        state=$(systemctl is-system-running 2>/dev/null)
        case $state in
        initializing | starting) ;;
        *) break ;;
        esac
        [ "$n" -lt "$limit" ] || break
        n=$((n + 1))
        sleep 1
    done
    fact init systemd
    fact state "${state:-unknown}"
    systemctl list-units --failed --plain --no-legend --no-pager 2>/dev/null |
        while read -r unit more; do
            # Old versions print a dot first.
            case $unit in *.*) ;; *) unit=${more%% *} ;; esac
            fact failed "$unit"
        done
    case $state in
    initializing | starting)
        systemctl list-jobs --plain --no-legend --no-pager 2>/dev/null |
            while read -r _ unit _; do fact job "$unit"; done
        ;;
    esac
else
    fact init other
fi

cards=
for dir in /sys/class/net/*; do
    [ -e "$dir/device" ] || continue
    cards="$cards ${dir##*/}"
    fact card "${dir##*/}"
done
# What uses a device and may have its address: a bridge, a bond, a VLAN.
for link in /sys/class/net/*/upper_* /sys/class/net/*/master /sys/class/net/*/brport/bridge; do
    [ -e "$link" ] || continue
    device=${link#/sys/class/net/}
    upper=$(readlink "$link")
    fact upper "${device%%/*}" "${upper##*/}"
done
# DEVICE ADDRESS of each but lo.
addresses() {
    if ip -4 -o addr show >/dev/null 2>&1; then
        ip -4 -o addr show | while read -r _ device _ address _; do
            [ "$device" = lo ] || echo "${device%:} $address"
        done
        return
    fi
    device=lo
    ifconfig 2>/dev/null | while IFS= read -r line; do
        case $line in
        [!\ \	]*)
            device=${line%% *}
            device=${device%%:*}
            ;;
        *'inet '*)
            address=${line#*inet }
            address=${address#addr:}
            [ "$device" = lo ] || echo "$device ${address%% *}"
            ;;
        esac
    done
}
# Whether each card that nothing else uses has an address.
has_addresses() {
    known=$(addresses)
    for card in $cards; do
        set -- /sys/class/net/"$card"/upper_*
        [ ! -e "$1" ] && [ ! -e "/sys/class/net/$card/master" ] || continue
        case "
$known" in *"
$card "*) ;; *) return 1 ;; esac
    done
}
has_route() {
    while read -r _ destination _; do
        [ "$destination" != 00000000 ] || return 0
    done </proc/net/route
    return 1
}
# The address may still be on its way.
n=0
while [ -n "$cards" ] && [ "$n" -lt "$limit" ] && [ "$n" -lt 30 ]; do
    ! has_route || ! has_addresses || break
    n=$((n + 1))
    sleep 1
done
[ ! -r /proc/net/route ] || while read -r device destination _; do
    [ "$destination" != 00000000 ] || fact route "$device"
done </proc/net/route
addresses | while read -r line; do fact address "$line"; done

# The file or device itself, by one name of it.
real() { readlink -f "$1" 2>/dev/null || echo "$1"; }
# The device of a source in /etc/fstab.
device_of() {
    tag=$(echo "$1" | tr -d "\"'")
    case $tag in
    UUID=*) device=/dev/disk/by-uuid/${tag#*=} ;;
    LABEL=*) device=/dev/disk/by-label/${tag#*=} ;;
    PARTUUID=*) device=/dev/disk/by-partuuid/${tag#*=} ;;
    PARTLABEL=*) device=/dev/disk/by-partlabel/${tag#*=} ;;
    *) device=$tag ;;
    esac
    [ -e "$device" ] || device=$(findfs "$tag" 2>/dev/null) || device=$tag
    real "$device"
}
swaps=
[ ! -r /proc/swaps ] || while read -r name _; do
    [ "$name" = Filename ] || swaps="$swaps
$(real "$name")
"
done </proc/swaps
wanted=0
active=0
# A last line may have no end.
[ ! -r /etc/fstab ] || while read -r source _ type options _ || [ -n "$source" ]; do
    case $source in '#'*) continue ;; esac
    [ "$type" = swap ] || continue
    case ,$options, in *,noauto,* | *,nofail,*) continue ;; esac
    wanted=$((wanted + 1))
    case $swaps in
    *"
$(device_of "$source")
"*) active=$((active + 1)) ;;
    *) fact noswap "$source" ;;
    esac
done </etc/fstab
fact swap "$active" "$wanted"

while read -r _ where _ options _; do
    [ "$where" = / ] || continue
    case ,$options, in *,rw,*) root=rw ;; *) root=ro ;; esac
done </proc/mounts
fact root "${root:-unknown}"
fact clock "$(date -u +%s)"
fact end
