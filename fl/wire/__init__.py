"""The Flower Protocol on the wire: message definitions, generated code, codec and tensors."""
