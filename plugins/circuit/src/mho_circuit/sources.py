"""Where the physics of this package comes from."""

RASCH = "Rasch et al. 2023"
EQ_16 = f"{RASCH}, Eq. 16"
RASCH_BIBTEX = """@article{rasch2023hardware,
  author  = {Rasch, Malte J. and Mackin, Charles and Le Gallo, Manuel and others},
  title   = {Hardware-aware training for large-scale and diverse deep learning inference workloads using in-memory
             computing-based accelerators},
  journal = {Nature Communications},
  volume  = {14},
  pages   = {5282},
  year    = {2023},
}"""
XIAO = "Xiao et al., arXiv 2109.01262"
XIAO_BIBTEX = """@misc{xiao2021accuracy,
  author = {Xiao, T. Patrick and Feinberg, Ben and Bennett, Christopher H. and others},
  title  = {On the accuracy of analog neural network inference accelerators},
  year   = {2021},
  note   = {arXiv:2109.01262},
}"""
NYQUIST_BIBTEX = """@article{nyquist1928thermal,
  author  = {Nyquist, Harry},
  title   = {Thermal agitation of electric charge in conductors},
  journal = {Physical Review},
  volume  = {32},
  pages   = {110--113},
  year    = {1928},
}"""
SWIM_BIBTEX = """@inproceedings{yan2022swim,
  author    = {Yan, Zheyu and Hu, Xiaobo Sharon and Shi, Yiyu},
  title     = {{SWIM}: Selective write-verify for computing-in-memory neural accelerators},
  booktitle = {Design Automation Conference},
  year      = {2022},
}"""
BUECHEL_BIBTEX = """@article{buechel2023programming,
  author  = {B{\\"u}chel, Julian and Vasilopoulos, Athanasios and Kersting, Benedikt and others},
  title   = {Programming weights to analog in-memory computing cores by direct minimization of the matrix-vector
             multiplication error},
  journal = {IEEE Journal on Emerging and Selected Topics in Circuits and Systems},
  volume  = {13},
  year    = {2023},
}"""
