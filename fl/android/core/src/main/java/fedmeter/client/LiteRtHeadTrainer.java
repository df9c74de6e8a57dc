package fedmeter.client;

import java.nio.FloatBuffer;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A head that a LiteRT model trains by its signatures, all of built-in operators (fl/android/README.md):
 *
 * <pre>
 *     train(x float32[batch, inputs], y float32[batch, classes] one-hot, lr float32) -&gt; loss float32
 *     infer(x) -&gt; probabilities float32[batch, classes]
 *     save() -&gt; w1, b1, w2, b2                  weights [out, in]
 *     restore(w1, b1, w2, b2) -&gt; ok             forgets the momentum
 * </pre>
 *
 * <p>How a signature runs is behind {@link Signatures}: LiteRT's interpreter in an app. For one thread.
 */
public final class LiteRtHeadTrainer implements HeadTrainer {
    private static final String[] TENSORS = {"w1", "b1", "w2", "b2"};
    private static final int EVALUATION_BATCH = 32;
    private static final double LEAST_PROBABILITY = Float.MIN_NORMAL; // of which the logarithm is finite

    /**
     * Runs a signature: tensors by name in, and out into what is given for them, float arrays in the tensor's shape or
     * a FloatBuffer of all its values.
     */
    @FunctionalInterface
    public interface Signatures {
        void run(String signature, Map<String, Object> inputs, Map<String, Object> outputs);
    }

    private final Signatures model;
    private final HeadShape shape;
    private float lr;

    /** Restores the weights that follow from a seed: the model's variables have no values before. */
    public LiteRtHeadTrainer(Signatures model, HeadShape shape, long seed) {
        this.model = model;
        this.shape = shape;
        restore(shape.initial(seed));
    }

    @Override
    public List<Tensor> weights() {
        float[][] values = shape.zeros();
        Map<String, Object> outputs = new HashMap<>();
        for (int i = 0; i < TENSORS.length; i++) {
            outputs.put(TENSORS[i], FloatBuffer.wrap(values[i]));
        }
        model.run("save", Collections.emptyMap(), outputs);
        return shape.tensors(values);
    }

    @Override
    public void restore(List<Tensor> tensors) {
        shape.check(tensors);
        Map<String, Object> inputs = new HashMap<>();
        for (int i = 0; i < TENSORS.length; i++) {
            inputs.put(TENSORS[i], FloatBuffer.wrap(tensors.get(i).values()));
        }
        model.run("restore", inputs, Collections.emptyMap());
    }

    /** Throws Usage for FedProx's term, which the model does not have. */
    @Override
    public void begin(double lr, double proximalMu) {
        if (proximalMu != 0) {
            throw new FedmeterException.Usage("proximal_mu = " + proximalMu + ": a LiteRT head has no such term.",
                    "Use the head in plain Java: head = \"dense\".");
        }
        this.lr = (float) lr;
        restore(weights());
    }

    @Override
    public Score step(Examples examples, int[] indices) {
        shape.check(examples);
        FloatBuffer loss = FloatBuffer.allocate(1);
        Map<String, Object> inputs = Map.of("x", features(examples, indices), "y", oneHot(examples, indices),
                "lr", FloatBuffer.wrap(new float[] {lr}));
        model.run("train", inputs, Collections.singletonMap("loss", loss));
        return new Score(loss.get(0), indices.length);
    }

    @Override
    public Score evaluate(Examples examples) {
        shape.check(examples);
        double lossSum = 0;
        int hits = 0;
        for (int from = 0; from < examples.size(); from += EVALUATION_BATCH) {
            int[] indices = new int[Math.min(EVALUATION_BATCH, examples.size() - from)];
            for (int i = 0; i < indices.length; i++) {
                indices[i] = from + i;
            }
            float[][] probabilities = new float[indices.length][shape.classes];
            model.run("infer", Collections.singletonMap("x", features(examples, indices)),
                    Collections.singletonMap("probabilities", probabilities));
            for (int i = 0; i < indices.length; i++) {
                int label = examples.labels[indices[i]];
                hits += DenseHeadTrainer.argmax(probabilities[i]) == label ? 1 : 0;
                lossSum -= Math.log(Math.max(probabilities[i][label], LEAST_PROBABILITY));
            }
        }
        return new Score(lossSum / examples.size(), hits, examples.size());
    }

    private float[][] features(Examples examples, int[] indices) {
        float[][] x = new float[indices.length][shape.inputs];
        for (int i = 0; i < indices.length; i++) {
            examples.features(indices[i], x[i]);
        }
        return x;
    }

    private float[][] oneHot(Examples examples, int[] indices) {
        float[][] y = new float[indices.length][shape.classes];
        for (int i = 0; i < indices.length; i++) {
            y[i][examples.labels[indices[i]]] = 1;
        }
        return y;
    }
}
