package fedmeter.client;

import java.util.List;

/**
 * A model's head that is trained on features: in plain Java ({@link DenseHeadTrainer}) or by a runtime of the device.
 */
public interface HeadTrainer {
    /** Copies of the weights, in the order in which they travel. */
    List<Tensor> weights();

    /** Takes weights in. Throws Usage where their number or shapes are not this head's. */
    void restore(List<Tensor> weights);

    /**
     * Begins a fit: momentum is forgotten, and the weights as they are now are where FedProx pulls to.
     *
     * @param proximalMu weight of FedProx's term, 0 for none
     */
    void begin(double lr, double proximalMu);

    /** One step of SGD on the examples of these indices; the score is that of the weights before it. */
    Score step(Examples examples, int[] indices);

    /** Loss and hits on all examples; nothing changes. */
    Score evaluate(Examples examples);

    /** A mean cross-entropy over some examples, and how many of them were met, where that is known. */
    final class Score {
        private static final int UNKNOWN = -1;

        final double loss;
        final int hits;
        final int examples;

        public Score(double loss, int hits, int examples) {
            this.loss = loss;
            this.hits = hits;
            this.examples = examples;
        }

        /** Of a runtime that tells its loss alone. */
        public Score(double loss, int examples) {
            this(loss, UNKNOWN, examples);
        }

        boolean hasHits() {
            return hits != UNKNOWN;
        }
    }
}
