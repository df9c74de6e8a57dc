package fedmeter.client;

import java.util.List;
import java.util.Map;

/**
 * What a server of the Flower Protocol asks of a client. An exception of any of them becomes an error status with its
 * message, and the client stays connected. Values of maps are Boolean, Long, Integer, Double, String or byte[].
 */
public interface FlowerClient {
    /** What this client is. */
    Map<String, Object> properties(Config config) throws Exception;

    /** The model as it is now. Raw tensors that come without shapes are shaped by it. */
    List<Tensor> getWeights() throws Exception;

    /** Trains, and asks {@code steps} before each step whether there is to be another. */
    FitResult fit(List<Tensor> weights, Config config, Steps steps) throws Exception;

    EvaluateResult evaluate(List<Tensor> weights, Config config) throws Exception;

    /** Trained weights, the number of examples that there are to train on, and metrics. */
    final class FitResult {
        final List<Tensor> weights;
        final long examples;
        final Map<String, Object> metrics;

        public FitResult(List<Tensor> weights, long examples, Map<String, Object> metrics) {
            this.weights = weights;
            this.examples = examples;
            this.metrics = metrics;
        }
    }

    /** Loss, over how many examples, and metrics. */
    final class EvaluateResult {
        final double loss;
        final long examples;
        final Map<String, Object> metrics;

        public EvaluateResult(double loss, long examples, Map<String, Object> metrics) {
            this.loss = loss;
            this.examples = examples;
            this.metrics = metrics;
        }
    }
}
