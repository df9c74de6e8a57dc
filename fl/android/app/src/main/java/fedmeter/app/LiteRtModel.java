package fedmeter.app;

import fedmeter.client.FeatureExtractor;
import fedmeter.client.FedmeterException;
import fedmeter.client.LiteRtHeadTrainer;
import java.nio.MappedByteBuffer;
import java.util.HashMap;
import java.util.Map;
import org.tensorflow.lite.Interpreter;

/** A .tflite file in LiteRT's interpreter, on one thread: a head's signatures, or a base model as feature extractor. */
final class LiteRtModel implements LiteRtHeadTrainer.Signatures, AutoCloseable {
    private final Interpreter interpreter;

    /** Throws Data where what a file of this name holds is no model. */
    LiteRtModel(MappedByteBuffer content, String name) {
        try {
            interpreter = new Interpreter(content, new Interpreter.Options().setNumThreads(1));
        } catch (IllegalArgumentException broken) {
            throw new FedmeterException.Data(name + " is no model: " + broken.getMessage() + ".");
        }
    }

    /** Inputs that are float arrays set their tensor's shape, so that the last batch of an epoch may be smaller. */
    @Override
    public void run(String signature, Map<String, Object> inputs, Map<String, Object> outputs) {
        interpreter.runSignature(new Inputs(inputs), outputs, signature);
    }

    /** Throws Data where its tensors are no extractor's. */
    FeatureExtractor extractor() {
        return new FeatureExtractor((image, features) -> interpreter.run(image, features),
                interpreter.getInputTensor(0).shape(), interpreter.getOutputTensor(0).shape());
    }

    @Override
    public void close() {
        interpreter.close();
    }

    /**
     * The interpreter refuses a signature without inputs ("Inputs should not be null or empty": its
     * NativeInterpreterWrapper), of which {@code save} is one: this never says that it is empty.
     */
    private static final class Inputs extends HashMap<String, Object> {
        private static final long serialVersionUID = 1L;

        private Inputs(Map<String, Object> inputs) {
            super(inputs);
        }

        @Override
        public boolean isEmpty() {
            return false;
        }
    }
}
