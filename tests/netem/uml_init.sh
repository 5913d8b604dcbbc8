#!/bin/sh
# Process 1 of the user-mode kernel: load what links need, run the command, write its status, power off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm 2>/dev/null || { mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm; }
modules=/usr/lib/uml/modules/$(uname -r)
for module in sch_netem sch_htb sch_tbf sch_ingress cls_u32 act_mirred veth tun; do
    modprobe -d / -S "$(uname -r)" "$module" 2>/dev/null ||
        insmod "$(find "$modules" -name "$module.ko*" | head -n 1)" 2>/dev/null || true
done
ip link set lo up
# The command is a script: the kernel's command line cannot carry spaces.
sh "$UML_SCRIPT" > "$UML_OUTPUT.log" 2>&1
echo $? > "$UML_OUTPUT.status"
sync
echo o > /proc/sysrq-trigger
sleep 10
