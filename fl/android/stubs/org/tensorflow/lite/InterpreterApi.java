package org.tensorflow.lite;

public interface InterpreterApi extends AutoCloseable {
    class Options {
        public Options setNumThreads(int numThreads) {
            throw new UnsupportedOperationException();
        }
    }

    void run(Object input, Object output);

    Tensor getInputTensor(int inputIndex);

    Tensor getOutputTensor(int outputIndex);

    @Override
    void close();
}
