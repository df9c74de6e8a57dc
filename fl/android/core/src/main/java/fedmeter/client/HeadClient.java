package fedmeter.client;

import java.util.List;
import java.util.Map;

/** A client that trains a head on examples of its own, with the config keys of docs/protocol.md. */
public final class HeadClient implements FlowerClient {
    private static final int BATCH_SIZE = 32; // defaults of the workload office31-mobilenetv2
    private static final double LR = 0.01;
    private static final int WARM_UP_STEPS = 20;

    private final HeadTrainer trainer;
    private final Examples examples;
    private final Map<String, Object> properties;
    private final int shard;

    /** {@code properties} are told to the server; {@code shard} tells the order of examples apart between clients. */
    public HeadClient(HeadTrainer trainer, Examples examples, int shard, Map<String, Object> properties) {
        this.trainer = trainer;
        this.examples = examples;
        this.shard = shard;
        this.properties = Map.copyOf(properties);
    }

    /** A whole batch some times over, without a change: a JVM compiles before what is measured begins. */
    public void warmUp() {
        int[] batch = new int[Math.min(BATCH_SIZE, examples.size())];
        for (int i = 0; i < batch.length; i++) {
            batch[i] = i;
        }
        trainer.begin(0, 0);
        for (int i = 0; i < WARM_UP_STEPS; i++) {
            trainer.step(examples, batch);
        }
    }

    @Override
    public Map<String, Object> properties(Config config) {
        return properties;
    }

    @Override
    public List<Tensor> getWeights() {
        return trainer.weights();
    }

    /** Metrics are loss and accuracy on the training batches of the last epoch, as they were met. */
    @Override
    public FitResult fit(List<Tensor> weights, Config config, Steps steps) {
        int epochs = config.atLeastOne("epochs", 1);
        int batchSize = config.atLeastOne("batch_size", BATCH_SIZE);
        int stepsPerEpoch = (examples.size() - 1) / batchSize + 1;
        trainer.restore(weights);
        trainer.begin(config.notNegative("lr", LR), config.notNegative("proximal_mu", 0));
        steps.plan((long) epochs * stepsPerEpoch);
        Progress progress = new Progress();
        int[] order = new int[0];
        while (steps.next()) {
            int step = steps.done() % stepsPerEpoch;
            if (step == 0) {
                order = shuffled(config, steps.done() / stepsPerEpoch);
                progress = new Progress();
            }
            int from = step * batchSize;
            int to = (int) Math.min((long) from + batchSize, examples.size());
            progress.add(trainer.step(examples, java.util.Arrays.copyOfRange(order, from, to)));
        }
        return new FitResult(trainer.weights(), examples.size(), progress.metrics());
    }

    @Override
    public EvaluateResult evaluate(List<Tensor> weights, Config config) {
        trainer.restore(weights);
        Progress all = new Progress();
        all.add(trainer.evaluate(examples));
        return new EvaluateResult(all.loss(), examples.size(), all.metrics());
    }

    /** Follows from (seed, round, shard, epoch), as that of a client in Python (fl/workloads/order.py). */
    private int[] shuffled(Config config, int epoch) {
        return NumpyOrder.permutation(
                examples.size(), config.whole("seed", 0), config.whole("round", 0), shard, epoch);
    }

    private static final class Progress {
        private double lossSum;
        private int hits;
        private int seen;
        private boolean hasHits = true;

        private void add(HeadTrainer.Score score) {
            lossSum += score.loss * score.examples;
            hits += score.hits;
            seen += score.examples;
            hasHits &= score.hasHits();
        }

        private double loss() {
            return lossSum / seen;
        }

        /** Without the accuracy, where the trainer does not tell it. */
        private Map<String, Object> metrics() {
            return hasHits ? Map.of("loss", loss(), "accuracy", (double) hits / seen) : Map.of("loss", loss());
        }
    }
}
