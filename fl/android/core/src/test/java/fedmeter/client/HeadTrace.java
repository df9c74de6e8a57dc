package fedmeter.client;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Trains on batches that it is told, so that another implementation can be held against it: tests/android does. */
public final class HeadTrace {
    private HeadTrace() {}

    /**
     * In a folder: features.npy, labels.npy, order.npy (int64, batches one after the other), w0.npy to w3.npy. Writes
     * the weights after all steps beside them, as out0.npy to out3.npy, and prints loss and hits on all examples. What
     * follows the fourth argument is a command that runs a LiteRT model's signatures, in the place of the head in plain
     * Java.
     */
    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[0]);
        int batchSize = Integer.parseInt(arguments[1]);
        double lr = Double.parseDouble(arguments[2]);
        double mu = Double.parseDouble(arguments[3]);
        List<Tensor> weights = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            weights.add(Npy.tensor(ByteBuffer.wrap(Files.readAllBytes(folder.resolve("w" + i + ".npy")))));
        }
        int[] shape = weights.get(0).shape();
        int classes = weights.get(3).shape()[0];
        Examples examples = Examples.read(folder.resolve("features.npy"), folder.resolve("labels.npy"), classes);
        long[] order = Npy.longs(ByteBuffer.wrap(Files.readAllBytes(folder.resolve("order.npy"))));
        HeadShape sizes = new HeadShape(shape[1], shape[0], classes);
        if (arguments.length == 4) {
            train(new DenseHeadTrainer(sizes, 0), folder, weights, examples, order, batchSize, lr, mu);
            return;
        }
        List<String> command = List.of(arguments).subList(4, arguments.length);
        try (LiteRtProcess model = new LiteRtProcess(command)) {
            train(new LiteRtHeadTrainer(model, sizes, 0), folder, weights, examples, order, batchSize, lr, mu);
        }
    }

    private static void train(HeadTrainer head, Path folder, List<Tensor> weights, Examples examples, long[] order,
            int batchSize, double lr, double mu) throws IOException {
        head.restore(weights);
        head.begin(lr, mu);
        for (int from = 0; from < order.length; from += batchSize) {
            int[] batch = new int[Math.min(batchSize, order.length - from)];
            for (int i = 0; i < batch.length; i++) {
                batch[i] = (int) order[from + i];
            }
            head.step(examples, batch);
        }
        List<Tensor> trained = head.weights();
        for (int i = 0; i < trained.size(); i++) {
            Files.write(folder.resolve("out" + i + ".npy"), Npy.encode(trained.get(i)).array());
        }
        HeadTrainer.Score score = head.evaluate(examples);
        System.out.println(score.loss + " " + score.hits);
    }
}
