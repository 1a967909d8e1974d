# What the tests of Debian's programs for PVM share: what is known of the output of pvm-examples.
# shellcheck shell=bash
# tids, addresses, hosts and times differ; lines of several tasks mix
debian_norm() { # FILE, named like its program
  # A round trip of less than a microsecond is 0 there, and its rate has no end, or for 0 bytes is no number.
  local rows='s/Roundtrip T = [0-9]+/Roundtrip T = N/; s/\((inf|-?nan) MB/(F MB/'
  case ${1##*/} in
    # frsg adds to a variable that it never sets: its first sum is what lay on the stack.
    frsg) rows='s/.*Test OK: Sum of Squares.* is +([0-9]+) *$/Sum2 \1/; s/.*ERROR: The Sum of Sq.*Sum2 as +([0-9]+) +for both it should have been +\1 *$/Sum2 \1/' ;;
    timing) rows='s/^[ 0-9.]+$/TIMES/; s/uSec [0-9]+/uSec N/' ;;
    hello.pvm) rows='s/ from .*/ from HOST/' ;;
    inherit[ab]) rows='s/on machine <[^>]*>/on HOST/' ;;
    spmd|fspmd) rows='/child task.s. still running/d' ;;
    # It says how often it had to look.
    gs.pvm) rows='/^waiting on kids to join/d' ;;
    # Its members count in the order in which they come to the group.
    ge) rows="/doesn't match up/d" ;;
  esac
  sed -E "$rows"'; s/[0-9]+\.[0-9]+(e[+-]?[0-9]+)?/F/g; s/\b(0x|t)?[48c][0-9a-f]{4,7}\b/TID/g; s/\bt[48c][0-9a-f]{4,7}lmbi/TIDlmbi/g; s/-?[0-9]{6,}/NUM/g' "$1" | sort
}
