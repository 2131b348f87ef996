"""Where the physics of this package comes from."""

RASCH = "Rasch et al. 2023"
RASCH_BIBTEX = """@article{rasch2023hardware,
  author  = {Rasch, Malte J. and Mackin, Charles and Le Gallo, Manuel and others},
  title   = {Hardware-aware training for large-scale and diverse deep learning inference workloads using in-memory
             computing-based accelerators},
  journal = {Nature Communications},
  volume  = {14},
  pages   = {5282},
  year    = {2023},
}"""
