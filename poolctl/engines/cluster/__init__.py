"""Many machines: the same work on a Dask cluster, which people run on ssh hosts, Kubernetes, SLURM or clouds."""
