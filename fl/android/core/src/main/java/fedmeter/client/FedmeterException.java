package fedmeter.client;

/**
 * What went wrong, where, and what to do about it. Exit codes are those of every fedmeter command: 1 finished with
 * failures, 2 wrong usage, 3 a precondition is missing.
 */
public abstract class FedmeterException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final int exitCode;

    private FedmeterException(int exitCode, String what, String remedy) {
        super(remedy.isEmpty() ? what : what + " " + remedy);
        this.exitCode = exitCode;
    }

    /** What a main returns for it. */
    public int exitCode() {
        return exitCode;
    }

    /** An argument or a config value that makes no sense. */
    public static final class Usage extends FedmeterException {
        private static final long serialVersionUID = 1L;

        public Usage(String what) {
            this(what, "");
        }

        public Usage(String what, String remedy) {
            super(2, what, remedy);
        }
    }

    /** Something that must be there is not: a server, a file, a right. */
    public static final class Precondition extends FedmeterException {
        private static final long serialVersionUID = 1L;

        public Precondition(String what, String remedy) {
            super(3, what, remedy);
        }
    }

    /** A file of examples that cannot be trained on. */
    public static final class Data extends FedmeterException {
        private static final long serialVersionUID = 1L;

        public Data(String what) {
            super(3, what, "");
        }
    }

    /** The server refused this client for good. */
    public static final class Refused extends FedmeterException {
        private static final long serialVersionUID = 1L;

        public Refused(String what) {
            super(3, what, "");
        }
    }

    /** The other side does not speak the protocol. */
    public static final class Wire extends FedmeterException {
        private static final long serialVersionUID = 1L;

        public Wire(String what) {
            super(1, what, "");
        }
    }
}
