"""The commands of mho: runs, studies, sweeps, reports and fits."""
