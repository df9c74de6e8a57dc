package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.util.Map;

public final class Interpreter implements InterpreterApi {
    public static class Options extends InterpreterApi.Options {
        @Override
        public Options setNumThreads(int numThreads) {
            throw new UnsupportedOperationException();
        }
    }

    public Interpreter(ByteBuffer byteBuffer, Options options) {}

    @Override
    public void run(Object input, Object output) {}

    public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {}

    @Override
    public Tensor getInputTensor(int inputIndex) {
        throw new UnsupportedOperationException();
    }

    @Override
    public Tensor getOutputTensor(int outputIndex) {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() {}
}
