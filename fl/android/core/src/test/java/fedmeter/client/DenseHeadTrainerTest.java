package fedmeter.client;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.List;
import java.util.Random;
import org.junit.Test;

/** Gradients against differences, and what a fit must keep and forget. Against PyTorch: tests/android. */
public final class DenseHeadTrainerTest {
    private static final int[] BATCH = {0, 1, 2, 3, 4};

    private final Examples examples = examples(5, 6, 3);
    private final DenseHeadTrainer head = new DenseHeadTrainer(6, 4, 3, 1);

    static Examples examples(int n, int width, int classes) {
        Random random = new Random(3);
        float[] features = new float[n * width];
        long[] labels = new long[n];
        for (int i = 0; i < features.length; i++) {
            features[i] = (float) random.nextGaussian();
        }
        for (int i = 0; i < n; i++) {
            labels[i] = i % classes;
        }
        return new Examples(new Tensor(new int[] {n, width}, features), labels, classes);
    }

    @Test
    public void aStepGoesDownTheSlopeThatDifferencesShow() {
        List<Tensor> start = head.weights();
        head.begin(1, 0);
        head.step(examples, BATCH);
        List<Tensor> stepped = head.weights();
        float h = 1e-3f; // smaller than what would carry an activation over its kink
        for (int t = 0; t < start.size(); t++) {
            for (int i = 0; i < start.get(t).values().length; i++) {
                double slope = (lossAt(start, t, i, h) - lossAt(start, t, i, -h)) / (2 * h);
                assertEquals(start.get(t).values()[i] - slope, stepped.get(t).values()[i], 2e-3);
            }
        }
    }

    private double lossAt(List<Tensor> weights, int t, int i, float shift) {
        DenseHeadTrainer other = new DenseHeadTrainer(6, 4, 3, 1);
        float[] values = weights.get(t).values();
        float kept = values[i];
        values[i] += shift;
        other.restore(weights);
        values[i] = kept;
        return other.evaluate(examples).loss;
    }

    @Test
    public void trainingLearns() {
        head.begin(0.1, 0);
        for (int i = 0; i < 200; i++) {
            head.step(examples, BATCH);
        }
        assertEquals(5, head.evaluate(examples).hits);
        assertTrue(head.evaluate(examples).loss < 0.05);
    }

    @Test
    public void aFitForgetsTheMomentumOfTheOneBefore() {
        List<Tensor> start = head.weights();
        head.begin(0.1, 0);
        head.step(examples, BATCH);
        List<Tensor> first = head.weights();
        head.restore(start);
        head.begin(0.1, 0);
        head.step(examples, BATCH);
        for (int t = 0; t < first.size(); t++) {
            assertArrayEquals(first.get(t).values(), head.weights().get(t).values(), 0);
        }
    }

    @Test
    public void theProximalTermPullsBack() {
        assertTrue(distanceAfter(10) < 0.7 * distanceAfter(0));
    }

    private double distanceAfter(double mu) {
        DenseHeadTrainer other = new DenseHeadTrainer(6, 4, 3, 1);
        List<Tensor> start = other.weights();
        other.begin(0.02, mu);
        for (int i = 0; i < 50; i++) {
            other.step(examples, BATCH);
        }
        double sum = 0;
        for (int t = 0; t < start.size(); t++) {
            for (int i = 0; i < start.get(t).values().length; i++) {
                sum += Math.pow(other.weights().get(t).values()[i] - start.get(t).values()[i], 2);
            }
        }
        return Math.sqrt(sum);
    }

    @Test
    public void weightsOfAnotherHeadAreRefused() {
        DenseHeadTrainer other = new DenseHeadTrainer(6, 5, 3, 1);
        assertThrows(FedmeterException.Usage.class, () -> head.restore(other.weights()));
        assertThrows(FedmeterException.Usage.class, () -> head.restore(head.weights().subList(0, 3)));
    }

    @Test
    public void examplesThatCannotBeTrainedOnAreRefused() {
        Tensor two = new Tensor(new int[] {2, 1}, new float[2]);
        assertThrows(FedmeterException.Data.class, () -> new Examples(two, new long[] {0, 3}, 3));
        assertThrows(FedmeterException.Data.class, () -> new Examples(two, new long[] {0, -1}, 3));
        assertThrows(FedmeterException.Data.class, () -> new Examples(two, new long[] {0}, 3));
        Tensor nan = new Tensor(new int[] {1, 1}, new float[] {Float.NaN});
        assertThrows(FedmeterException.Data.class, () -> new Examples(nan, new long[] {0}, 3));
    }
}
