#!/bin/bash
# labels: lab
# timeout: 500
exec "$(dirname "$0")/../lab/lab" run rdma
