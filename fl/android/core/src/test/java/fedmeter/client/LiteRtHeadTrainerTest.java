package fedmeter.client;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.FloatBuffer;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.junit.Test;

/** What is asked of a model's signatures, by a model that answers with the arithmetic of the head in plain Java. */
public final class LiteRtHeadTrainerTest {
    private static final HeadShape SHAPE = new HeadShape(6, 4, 3);

    private final Examples examples = DenseHeadTrainerTest.examples(70, 6, 3);

    /** Strict as a runtime is: names, shapes, and no answer before weights were restored. */
    static final class Model implements LiteRtHeadTrainer.Signatures {
        private final DenseHeadTrainer head = new DenseHeadTrainer(SHAPE, 99);
        private boolean isRestored;
        private float atLr;
        private int largestBatch;

        @Override
        public void run(String signature, Map<String, Object> inputs, Map<String, Object> outputs) {
            assertTrue("variables have no values before", isRestored || signature.equals("restore"));
            switch (signature) {
                case "train":
                    assertEquals(Set.of("x", "y", "lr"), inputs.keySet());
                    train((float[][]) inputs.get("x"), (float[][]) inputs.get("y"),
                            ((FloatBuffer) inputs.get("lr")).get(0), (FloatBuffer) outputs.get("loss"));
                    return;
                case "infer":
                    assertEquals(Set.of("x"), inputs.keySet());
                    infer((float[][]) inputs.get("x"), (float[][]) outputs.get("probabilities"));
                    return;
                case "save":
                    assertTrue(inputs.isEmpty());
                    List<Tensor> weights = head.weights();
                    for (int i = 0; i < weights.size(); i++) {
                        buffer(outputs, i).put(weights.get(i).values());
                    }
                    return;
                case "restore":
                    float[][] values = SHAPE.zeros();
                    for (int i = 0; i < values.length; i++) {
                        buffer(inputs, i).get(values[i]);
                    }
                    head.restore(SHAPE.tensors(values));
                    atLr = Float.NaN;
                    isRestored = true;
                    return;
                default:
                    throw new IllegalArgumentException("no signature " + signature);
            }
        }

        private static FloatBuffer buffer(Map<String, Object> tensors, int i) {
            return (FloatBuffer) tensors.get(new String[] {"w1", "b1", "w2", "b2"}[i]);
        }

        private void train(float[][] x, float[][] y, float lr, FloatBuffer loss) {
            long[] labels = new long[y.length];
            for (int i = 0; i < y.length; i++) {
                float sum = 0;
                for (int k = 0; k < SHAPE.classes; k++) {
                    sum += y[i][k];
                    labels[i] = y[i][k] == 1 ? k : labels[i];
                }
                assertEquals("one-hot", 1, sum, 0);
            }
            largestBatch = Math.max(largestBatch, x.length);
            if (lr != atLr) { // the first step since weights were restored: there is no momentum that this would forget
                head.begin(lr, 0);
                atLr = lr;
            }
            loss.put(0, (float) head.step(examples(x, labels), indices(x.length)).loss);
        }

        private void infer(float[][] x, float[][] probabilities) {
            largestBatch = Math.max(largestBatch, x.length);
            for (int k = 0; k < SHAPE.classes; k++) {
                for (int i = 0; i < x.length; i++) {
                    float[][] one = {x[i]};
                    probabilities[i][k] = (float) Math.exp(-head.evaluate(examples(one, new long[] {k})).loss);
                }
            }
        }

        private static Examples examples(float[][] x, long[] labels) {
            float[] rows = new float[x.length * SHAPE.inputs];
            for (int i = 0; i < x.length; i++) {
                System.arraycopy(x[i], 0, rows, i * SHAPE.inputs, SHAPE.inputs);
            }
            return new Examples(new Tensor(new int[] {x.length, SHAPE.inputs}, rows), labels, SHAPE.classes);
        }
    }

    static int[] indices(int n) {
        return java.util.stream.IntStream.range(0, n).toArray();
    }

    private static void assertSame(HeadTrainer expected, HeadTrainer got) {
        for (int i = 0; i < 4; i++) {
            assertArrayEquals(expected.weights().get(i).values(), got.weights().get(i).values(), 0);
        }
    }

    @Test
    public void aCourseOfTrainingIsThatOfTheHeadInPlainJava() {
        LiteRtHeadTrainer lite = new LiteRtHeadTrainer(new Model(), SHAPE, 1);
        DenseHeadTrainer dense = new DenseHeadTrainer(SHAPE, 1);
        assertSame(dense, lite);
        for (int fit = 0; fit < 2; fit++) { // the second begins without momentum
            lite.begin(0.1, 0);
            dense.begin(0.1, 0);
            for (int batch : new int[] {32, 32, 6}) {
                HeadTrainer.Score score = lite.step(examples, indices(batch));
                assertEquals(dense.step(examples, indices(batch)).loss, score.loss, 1e-6);
                assertFalse("a model tells no hits", score.hasHits());
            }
            assertSame(dense, lite);
        }
    }

    @Test
    public void evaluationGoesInBatchesAndChangesNothing() {
        Model model = new Model();
        LiteRtHeadTrainer lite = new LiteRtHeadTrainer(model, SHAPE, 1);
        DenseHeadTrainer dense = new DenseHeadTrainer(SHAPE, 1);
        HeadTrainer.Score score = lite.evaluate(examples);
        HeadTrainer.Score expected = dense.evaluate(examples);
        assertEquals(expected.loss, score.loss, 1e-6);
        assertEquals(expected.hits, score.hits);
        assertEquals(70, score.examples);
        assertEquals(32, model.largestBatch);
        assertSame(dense, lite);
    }

    @Test
    public void whatAModelCannotDoIsRefused() {
        LiteRtHeadTrainer lite = new LiteRtHeadTrainer(new Model(), SHAPE, 1);
        String why = assertThrows(FedmeterException.Usage.class, () -> lite.begin(0.1, 0.5)).getMessage();
        assertTrue(why, why.contains("proximal_mu = 0.5"));
        Examples narrow = DenseHeadTrainerTest.examples(5, 5, 3);
        assertThrows(FedmeterException.Data.class, () -> lite.step(narrow, indices(5)));
        assertThrows(FedmeterException.Data.class, () -> lite.evaluate(narrow));
        assertThrows(FedmeterException.Usage.class, () -> lite.restore(new DenseHeadTrainer(6, 5, 3, 1).weights()));
    }

    @Test
    public void aFitWithoutHitsTellsNoAccuracyAndAnEvaluationDoes() throws Exception {
        LiteRtHeadTrainer lite = new LiteRtHeadTrainer(new Model(), SHAPE, 1);
        HeadClient client = new HeadClient(lite, examples, 0, Map.of());
        Config config = new Config(Map.of("epochs", 2L, "batch_size", 16L, "lr", 0.1));
        Steps steps = new Steps(Clock.system(), 0);
        FlowerClient.FitResult result = client.fit(client.getWeights(), config, steps);
        assertEquals(Set.of("loss"), result.metrics.keySet());
        assertEquals(10, steps.done());
        assertEquals(Set.of("loss", "accuracy"), client.evaluate(client.getWeights(), config).metrics.keySet());
    }
}
