#!/bin/bash
# labels: lab
# timeout: 1200
exec "$(dirname "$0")/../lab/lab" run virtio
