"""`torch.compile`: the same loss and gradients, from few graphs."""

import torch
from shop import REQUESTS, make_model, make_model_processor
from torch._dynamo.testing import CompileCounter


def test_a_compiled_model_is_the_model():
    """A graph ends where shapes depend on the data: at the added tokens, the pictures' places and the labels."""
    processor = make_model_processor()
    model = make_model(processor, item_rows="both").train()
    batch = processor(requests=[request | {"answer": "s1"} for request in REQUESTS[:2]], labels=True)
    batch = {name: tensor for name, tensor in batch.items() if name not in ("task_ids", "label_kinds")}

    def loss_and_gradients(called):
        model.zero_grad()
        loss = called(**batch).loss
        loss.backward()
        return loss, {name: each.grad for name, each in model.named_parameters() if each.grad is not None}

    graphs = CompileCounter()  # runs each as it is
    loss, gradients = loss_and_gradients(model)
    compiled_loss, compiled_gradients = loss_and_gradients(torch.compile(model, backend=graphs))
    assert torch.equal(loss, compiled_loss) and gradients.keys() == compiled_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, msg=name)
    assert graphs.frame_count <= 4, "more graphs than the parts of a forward: something new depends on the data"
