package fedmeter.client;

import fedmeter.measurement.MeasurementOuterClass.Reading;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.util.EnumSet;
import java.util.Locale;
import java.util.Set;
import java.util.function.Consumer;
import java.util.function.UnaryOperator;

/**
 * What an app's client is doing, for its screen and its notification: one piece of work at a time, round and joules so
 * far. Changed by the thread that works and looked at by others; whoever watches is told of each change, by the thread
 * that made it.
 */
public final class AppState {
    /** Idle, at work in one of several ways, or ended in one of three. */
    public enum Phase {
        IDLE, STARTING, JOINING, FITTING, EVALUATING, WAITING, DONE, STOPPED, FAILED;

        private static final Set<Phase> RESTING = EnumSet.of(IDLE, DONE, STOPPED, FAILED);

        /** Whether nothing is being done, so that something can be begun. */
        public boolean isResting() {
            return RESTING.contains(this);
        }
    }

    /** How it stands at one moment. */
    public static final class Snapshot {
        public final Phase phase;
        public final String server;
        /** 0 before the first. */
        public final long round;
        /** Of what was measured so far. */
        public final double energyJ;
        /** Why joules are missing of some of it; empty where they are of all. */
        public final String energyReason;
        /** How it ended, in words, where it failed. */
        public final String message;

        private Snapshot(Phase phase, String server, long round, double energyJ, String energyReason, String message) {
            this.phase = phase;
            this.server = server;
            this.round = round;
            this.energyJ = energyJ;
            this.energyReason = energyReason;
            this.message = message;
        }

        /** Joules in words; a sum that lacks something says so. */
        public String energy() {
            String sum = String.format(Locale.ROOT, "%.1f J", energyJ);
            if (energyReason.isEmpty()) {
                return sum;
            }
            return energyJ > 0 ? "more than " + sum + ": " + energyReason : "joules unknown: " + energyReason;
        }

        /** One line, as for a notification. */
        public String line() {
            String what = phase.name().toLowerCase(Locale.ROOT);
            return round > 0 ? what + ", round " + round + ", " + energy() : what;
        }
    }

    private static final Snapshot IDLE = new Snapshot(Phase.IDLE, "", 0, 0, "", "");

    private final Consumer<Snapshot> watcher;
    private Snapshot now = IDLE;

    public AppState(Consumer<Snapshot> watcher) {
        this.watcher = watcher;
    }

    public synchronized Snapshot now() {
        return now;
    }

    /** Whether it begins: not while something is being done. Round and joules begin anew. */
    public boolean begin(String server) {
        synchronized (this) {
            if (!now.phase.isResting()) {
                return false;
            }
            now = new Snapshot(Phase.STARTING, server, 0, 0, "", "");
        }
        watcher.accept(now());
        return true;
    }

    /** What was asked for cannot be begun. Nothing changes where something else is being done. */
    public void refuse(String why) {
        synchronized (this) {
            if (!now.phase.isResting()) {
                return;
            }
            now = new Snapshot(Phase.FAILED, "", 0, 0, "", why);
        }
        watcher.accept(now());
    }

    /** Something is being done, of round 0 where no round is known. Nothing once it has ended. */
    void at(Phase phase, long round) {
        if (phase.isResting()) {
            throw new IllegalArgumentException(phase + " is an end");
        }
        change(old -> new Snapshot(
                phase, old.server, round > 0 ? round : old.round, old.energyJ, old.energyReason, ""));
    }

    /** Adds what a span has drawn. A client's spans follow each other, so that their joules add up. */
    void measured(Span span) {
        Reading total = span.getTotal();
        change(old -> new Snapshot(old.phase, old.server, old.round, old.energyJ + total.getEnergyJ(),
                total.hasEnergyJ() ? old.energyReason : total.getReason(), old.message));
    }

    void end(Phase phase, String message) {
        if (!phase.isResting()) {
            throw new IllegalArgumentException(phase + " is no end");
        }
        change(old -> new Snapshot(phase, old.server, old.round, old.energyJ, old.energyReason, message));
    }

    private void change(UnaryOperator<Snapshot> how) {
        synchronized (this) {
            if (now.phase.isResting()) {
                return;
            }
            now = how.apply(now);
        }
        watcher.accept(now());
    }
}
