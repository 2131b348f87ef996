"""Knowledge distillation: a digital teacher beside the labels (R003-75)."""

from torch import Tensor
from torch.nn import functional as F


def distillation_loss(
    outputs: Tensor, teacher: Tensor, task_loss: Tensor, *, temperature: float = 10.0, weight: float = 0.75
) -> Tensor:
    """weight T^2 KL(p_T || q_T) + (1 - weight) task_loss, with p_T = softmax(teacher/T), q_T = softmax(outputs/T).

    `outputs` and `teacher` [..., classes] are logits for the same batch, the teacher's without gradient; the divergence is
    summed over classes and averaged over the rest. The factor T^2 keeps the size of the gradient when T changes
    (Hinton et al. 2015, sec. 2). Defaults: R003, 'Distilling with floating-point teacher'.

    >>> with torch.no_grad(): soft = teacher(x)
    >>> loss = mho.distillation_loss(y := net(x), soft, F.cross_entropy(y, labels))
    """
    t = temperature
    student = F.log_softmax(outputs / t, -1).flatten(0, -2)
    soft = F.log_softmax(teacher.detach() / t, -1).flatten(0, -2)
    divergence = F.kl_div(student, soft, reduction="batchmean", log_target=True)
    return weight * t * t * divergence + (1 - weight) * task_loss
