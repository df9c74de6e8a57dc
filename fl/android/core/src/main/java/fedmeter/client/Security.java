package fedmeter.client;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.Optional;
import java.util.Set;
import java.util.regex.Pattern;

/** What a client trusts and what it can show, from the files of a security folder (docs/security.md). */
public final class Security {
    /** No TLS, no token. */
    public static final Security NONE = new Security(null, null, null, null);

    private static final long MAX_FILE_BYTES = 64 * 1024;
    private static final Pattern TOKEN = Pattern.compile("[A-Za-z0-9_.~+/=-]{16,512}"); // b64token of RFC 6750, 2.1
    private static final Pattern LOOPBACK = Pattern.compile("(localhost|127(\\.[0-9]{1,3}){3}|\\[?::1]?):[0-9]+");

    private final byte[] authority;
    private final byte[] certificate;
    private final byte[] key;
    private final String token;

    private Security(byte[] authority, byte[] certificate, byte[] key, String token) {
        this.authority = authority;
        this.certificate = certificate;
        this.key = key;
        this.token = token;
    }

    /** TLS that trusts the certificates of a PEM file. Throws Precondition, naming the file. */
    public static Security trusting(Path pem) {
        return new Security(read(pem), null, null, null);
    }

    /**
     * TLS with ca.pem, and client.pem with client.key and token where they are there, from the folder or from the
     * device's own below devices/. Throws Precondition, naming the file, also for a secret that everybody can read.
     */
    public static Security of(Path folder, String device) {
        Path own = folder.resolve("devices").resolve(device);
        Path from = !device.isEmpty() && Files.isDirectory(own) ? own : folder;
        byte[] authority = read(from.resolve("ca.pem"));
        Path token = from.resolve("token");
        String told = Files.exists(token) ? token(token) : null;
        Path certificate = from.resolve("client.pem");
        Path key = from.resolve("client.key");
        if (!Files.exists(certificate) && !Files.exists(key)) {
            return new Security(authority, null, null, told);
        }
        return new Security(authority, read(certificate), readSecret(key), told);
    }

    /** Throws Precondition where a token would be sent in plain text over a network. */
    void checkWay(String address) {
        if (authority == null && token != null && !isLoopback(address)) {
            throw new FedmeterException.Precondition(address + ": a token is not sent there without TLS.",
                    "Give the client the server's ca.pem.");
        }
    }

    /** As gRPC takes them; none is plain text. Throws Precondition for files that are not PEM. */
    ChannelCredentials credentials() {
        if (authority == null) {
            return InsecureChannelCredentials.create();
        }
        try {
            TlsChannelCredentials.Builder tls =
                    TlsChannelCredentials.newBuilder().trustManager(new ByteArrayInputStream(authority));
            if (certificate != null) {
                tls.keyManager(new ByteArrayInputStream(certificate), new ByteArrayInputStream(key));
            }
            return tls.build();
        } catch (IOException broken) {
            throw unusable(broken);
        }
    }

    static FedmeterException.Precondition unusable(Exception broken) {
        return new FedmeterException.Precondition(
                "the certificates cannot be used: " + broken.getMessage() + ".", "Are they PEM files?");
    }

    /** The files themselves, where there is to be TLS. */
    Optional<Pems> pems() {
        return authority == null ? Optional.empty() : Optional.of(new Pems(authority, certificate, key));
    }

    /** PEM; certificate and key are null where the client has none to show. */
    static final class Pems {
        final byte[] authority;
        final byte[] certificate;
        final byte[] key;

        private Pems(byte[] authority, byte[] certificate, byte[] key) {
            this.authority = authority;
            this.certificate = certificate;
            this.key = key;
        }
    }

    /** The value of the metadata {@code authorization}, as RFC 6750 has it. */
    Optional<String> bearer() {
        return Optional.ofNullable(token).map(text -> "Bearer " + text);
    }

    /** Whether HOST:PORT cannot be reached from another machine. A name counts only if it is localhost. */
    static boolean isLoopback(String address) {
        return LOOPBACK.matcher(address).matches();
    }

    private static String token(Path path) {
        String token = new String(readSecret(path), StandardCharsets.US_ASCII).trim();
        if (!TOKEN.matcher(token).matches()) {
            throw new FedmeterException.Precondition(
                    path + " holds no token: 16 to 512 letters, digits and . ~ + / = _ - in one line.",
                    "Make one with: python -m harness.run --init");
        }
        return token;
    }

    private static byte[] readSecret(Path path) {
        byte[] content = read(path);
        try {
            Set<PosixFilePermission> rights = Files.getPosixFilePermissions(path);
            if (rights.contains(PosixFilePermission.OTHERS_READ) || rights.contains(PosixFilePermission.OTHERS_WRITE)) {
                throw new FedmeterException.Precondition(
                        path + " can be read by every user of this machine.", "Run: chmod 600 " + path);
            }
        } catch (IOException | UnsupportedOperationException unknown) {
            return content; // a file system without such rights
        }
        return content;
    }

    private static byte[] read(Path path) {
        try {
            long size = Files.size(path);
            if (size == 0 || size > MAX_FILE_BYTES) {
                throw new FedmeterException.Precondition(path + " is empty or larger than " + MAX_FILE_BYTES
                        + " bytes: no certificate, key or token.", "");
            }
            return Files.readAllBytes(path);
        } catch (IOException unreadable) {
            throw new FedmeterException.Precondition(
                    path + " cannot be read: " + unreadable.getMessage() + ".",
                    "Make it with: python -m harness.run --init DIR");
        }
    }
}
