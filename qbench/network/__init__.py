"""Networks: torsos from conf/network, heads per algorithm. Plain modules, no seed axis."""
