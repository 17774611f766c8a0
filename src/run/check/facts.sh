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

cards=0
for dir in /sys/class/net/*; do
    [ -e "$dir/device" ] || continue
    cards=$((cards + 1))
    fact card "${dir##*/}"
done
has_route() {
    while read -r _ destination _; do
        [ "$destination" != 00000000 ] || return 0
    done </proc/net/route
    return 1
}
# The address may still be on its way.
n=0
while [ "$cards" -gt 0 ] && [ "$n" -lt "$limit" ] && [ "$n" -lt 30 ] && ! has_route; do
    n=$((n + 1))
    sleep 1
done
[ ! -r /proc/net/route ] || while read -r device destination _; do
    [ "$destination" != 00000000 ] || fact route "$device"
done </proc/net/route
if ip -4 -o addr show >/dev/null 2>&1; then
    ip -4 -o addr show | while read -r _ device _ address _; do
        [ "$device" = lo ] || fact address "$device" "$address"
    done
else
    ifconfig 2>/dev/null | sed -n 's/.*inet \(addr:\)\{0,1\}\([0-9.]*\).*/\2/p' |
        while read -r address; do
            [ "$address" = 127.0.0.1 ] || fact address - "$address"
        done
fi

wanted=0
[ ! -r /etc/fstab ] || while read -r source _ type options _; do
    case $source in '#'*) continue ;; esac
    [ "$type" = swap ] || continue
    case ,$options, in *,noauto,* | *,nofail,*) continue ;; esac
    wanted=$((wanted + 1))
done </etc/fstab
active=0
[ ! -r /proc/swaps ] || while read -r name _; do
    [ "$name" = Filename ] || active=$((active + 1))
done </proc/swaps
fact swap "$active" "$wanted"

while read -r _ where _ options _; do
    [ "$where" = / ] || continue
    case ,$options, in *,rw,*) root=rw ;; *) root=ro ;; esac
done </proc/mounts
fact root "${root:-unknown}"
fact clock "$(date -u +%s)"
fact end
