package fedmeter.client;

import java.util.List;
import java.util.concurrent.ThreadLocalRandom;

/** One thread that samples meters as often as the fastest of them is worth it, until it is closed. */
public final class Sampling implements AutoCloseable {
    private static final double JITTER = 0.2; // of a period, against aliasing

    private final List<? extends EnergyMeter> meters;
    private final double periodS;
    private final Thread thread;

    /** Begins at once; without meters there is no thread. */
    public Sampling(List<? extends EnergyMeter> meters) {
        this.meters = List.copyOf(meters);
        this.periodS = meters.stream().mapToDouble(EnergyMeter::minPeriodS).min().orElse(0);
        this.thread = new Thread(this::run, "fedmeter-sampling");
        this.thread.setDaemon(true);
        if (!meters.isEmpty()) {
            thread.start();
        }
    }

    private void run() {
        while (!Thread.currentThread().isInterrupted()) {
            meters.forEach(EnergyMeter::sample);
            double jitter = 1 + JITTER * (ThreadLocalRandom.current().nextDouble() - 0.5);
            try {
                Thread.sleep(Math.max(1, Math.round(periodS * jitter * 1e3)));
            } catch (InterruptedException closing) {
                return;
            }
        }
    }

    boolean isAlive() {
        return thread.isAlive();
    }

    @Override
    public void close() {
        thread.interrupt();
    }
}
