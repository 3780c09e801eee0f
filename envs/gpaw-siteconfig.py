"""How `make dft-setup` compiles GPAW: serial, with the libxc, OpenBLAS and FFTW of the system.

GPAW executes this file (environment variable GPAW_CONFIG). Two serial processes finish a campaign
sooner than one process with two MPI ranks (measured 1.47x for two ranks), so MPI is left out; for it
set `compiler = 'mpic++'` and `mpi = True`, install libopenmpi-dev, and add `--no-cache-dir` to pip.
"""

compiler = "g++"
mpi = False
fftw = True
noblas = False
libraries = ["xc", "openblas", "fftw3"]
extra_compile_args = ["-O3", "-Wno-unknown-pragmas", "-std=c++17"]
