#!/bin/sh
# Waits until standard input ends, however whoever held it ended, then removes what a bed has made: guard.sh BRIDGE NAMESPACE...
# The processes in the namespaces first: a namespace lives as long as any of them.
cat > /dev/null
bridge=$1
shift
for namespace in "$@"; do
  for pid in $(ip netns pids "$namespace" 2> /dev/null); do kill -9 "$pid" 2> /dev/null; done
  ip netns del "$namespace" 2> /dev/null
done
ip link del "$bridge" 2> /dev/null
exit 0
